//! Whether a scenario makes sense: names that exist, amounts within what the simulator can hold.

use std::collections::BTreeSet;

use piecework::content::layout::FlatLayout;

use crate::scenario::{FaultKind, Machines, Scenario, TroubleKind};

/// Machines of one world.
const MACHINES_MAX: u64 = 1_000_000;
/// Pairs of a machine and a content it wants.
const SHARES_MAX: u64 = 2_000_000;

/// Says what does not fit, with the key, the value and the range.
pub(crate) fn check(scenario: &Scenario) -> Result<(), String> {
    content(scenario)?;
    let names: BTreeSet<&str> = scenario.site.iter().map(|site| site.name.as_str()).collect();
    if names.len() < scenario.site.len() {
        return Err("two [[site]] have the same name; use `count` for several of one kind".into());
    }
    for site in &scenario.site {
        above_zero("site.down", site.down.0)?;
        above_zero("site.up", site.up.0)?;
        above_zero("site.line_budget", site.line_budget.map_or(1, |rate| rate.0))?;
        within("site.count", u64::from(site.count), 1, 100_000)?;
    }
    for machines in &scenario.machines {
        if !names.contains(machines.site.as_str()) {
            return Err(format!("machines `{}` stand in a site `{}` that is not there", machines.name, machines.site));
        }
        kind(machines)?;
    }
    for origin in &scenario.origin {
        above_zero("origin.rate", origin.rate.0)?;
        for fault in &origin.fault {
            within("origin.fault.percent", u64::from(fault.percent), 0, 100)?;
            if (fault.kind == FaultKind::Slow) != fault.rate.is_some() {
                return Err("origin.fault: `rate` belongs to kind = \"slow\", which needs it".into());
            }
        }
    }
    troubles(scenario)?;
    for foreground in &scenario.foreground {
        if !names.contains(foreground.site.as_str()) {
            return Err(format!("foreground on the line of a site `{}` that is not there", foreground.site));
        }
    }
    within("discovery.connections", u64::from(scenario.discovery.connections), 1, 1024)?;
    within("model.acks_permille", u64::from(scenario.model.acks_permille), 0, 1000)?;
    within("model.overhead_permille", u64::from(scenario.model.overhead_permille), 0, 1000)?;
    within("stop_after in seconds", scenario.stop_after.0 / 1_000_000, 1, 400 * 86_400)?;
    population(scenario)
}

fn content(scenario: &Scenario) -> Result<(), String> {
    within("content.size in bytes", scenario.content.size.0, 1, 1 << 40)?;
    within("content.count", u64::from(scenario.content.count), 1, 1_000_000)?;
    match FlatLayout::new([scenario.content.size.0]) {
        Ok(Some(_)) => Ok(()),
        _ => Err("content.size: no content may be that long".into()),
    }
}

fn kind(machines: &Machines) -> Result<(), String> {
    above_zero("machines.down", machines.down.0)?;
    above_zero("machines.up", machines.up.0)?;
    within("machines.days", u64::from(machines.days), 1, 365)?;
    if !machines.hours.is_empty() && (machines.hours.len() != 24 || machines.hours.iter().all(|it| *it == 0)) {
        return Err("machines.hours: 24 weights, one an hour, not all 0".into());
    }
    if machines.hours.iter().any(|weight| *weight > 1_000_000) {
        return Err("machines.hours: weights go up to 1000000".into());
    }
    if let Some(percent) = machines.first_day_percent {
        within("machines.first_day_percent", u64::from(percent), 0, 100)?;
    }
    if machines.per_access_point.is_some() != machines.access_point_rate.is_some() {
        return Err("machines: `per_access_point` and `access_point_rate` go together".into());
    }
    if machines.per_access_point == Some(0) || machines.addresses == Some(0) {
        return Err("machines: `per_access_point` and `addresses` are above 0".into());
    }
    Ok(())
}

fn troubles(scenario: &Scenario) -> Result<(), String> {
    for trouble in &scenario.trouble {
        within("trouble.percent", u64::from(trouble.percent), 0, 100)?;
        if let Some(name) = &trouble.machines
            && !scenario.machines.iter().any(|machines| machines.name == *name)
        {
            return Err(format!("trouble with machines `{name}` that are not there"));
        }
        if let Some([from, to]) = trouble.at_percent
            && (from > to || to > 100)
        {
            return Err("trouble.at_percent: two numbers of 0 to 100, the smaller one first".into());
        }
        if (trouble.kind == TroubleKind::Lie) != trouble.manner.is_some() {
            return Err("trouble: `manner` belongs to kind = \"lie\", which needs it".into());
        }
        if trouble.announced && trouble.kind != TroubleKind::Sleep {
            return Err("trouble: `announced` belongs to kind = \"sleep\"".into());
        }
        let lasting = matches!(trouble.kind, TroubleKind::Silence | TroubleKind::Sleep);
        if lasting && trouble.lasts.is_none() {
            return Err("trouble: `silence` and `sleep` need `lasts`".into());
        }
    }
    Ok(())
}

fn population(scenario: &Scenario) -> Result<(), String> {
    let mut total = 0u64;
    for machines in &scenario.machines {
        let sites = scenario.site.iter().find(|site| site.name == machines.site).map_or(0, |site| site.count);
        total = total.saturating_add(u64::from(machines.count).saturating_mul(u64::from(sites)));
    }
    within("machines in all", total, 1, MACHINES_MAX)?;
    let wanted = scenario.content.wanted_by.map_or(total, u64::from).min(total);
    let shares = wanted.saturating_mul(u64::from(scenario.content.count));
    within("machines times contents", shares, 1, SHARES_MAX)?;
    let supplied = !scenario.origin.is_empty() || scenario.machines.iter().any(|machines| machines.seed);
    if supplied { Ok(()) } else { Err("nobody has the content: an [[origin]] or machines with `seed = true`".into()) }
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key}: {value} is not within {least} and {most}"))
    }
}

fn above_zero(key: &str, value: u64) -> Result<(), String> {
    if value > 0 { Ok(()) } else { Err(format!("{key}: has to be above 0")) }
}
