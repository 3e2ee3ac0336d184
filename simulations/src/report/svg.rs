//! Plots, written plainly: a frame, ticks, lines or bars, and a legend.

use std::fmt::Write;

use crate::outcome::Outcome;

const WIDTH: u64 = 720;
const HEIGHT: u64 = 400;
const LEFT: u64 = 80;
const RIGHT: u64 = 150;
const TOP: u64 = 40;
const BOTTOM: u64 = 50;
/// Colours that people with any colour vision tell apart (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Points, by x; both in thousandths of the axis' unit.
    pub points: Vec<(u64, u64)>,
    /// It goes level to the next point and then up, as counts do.
    pub steps: bool,
}

/// A plot's words.
#[derive(Debug, Clone, Copy)]
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the x axis, with the unit.
    pub x: &'a str,
    /// Beside the y axis, with the unit.
    pub y: &'a str,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A round number at or above a fifth of `most`.
fn tick(most: u64) -> u64 {
    let mut step = 1u64;
    loop {
        for times in [1, 2, 5] {
            if step.saturating_mul(times * 5) >= most {
                return step * times;
            }
        }
        step = step.saturating_mul(10);
    }
}

fn number(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn scale(value: u64, most: u64, length: u64) -> u64 {
    (u128::from(value.min(most)) * u128::from(length) / u128::from(most.max(1))) as u64
}

fn open(out: &mut String, chart: &Chart<'_>) {
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(chart.title)
    );
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let _ = write!(
        out,
        "<path d=\"M{LEFT},{TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
         <text transform=\"translate(18,{}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        (LEFT + right) / 2,
        HEIGHT - 12,
        escaped(chart.x),
        (TOP + bottom) / 2,
        escaped(chart.y)
    );
}

fn y_ticks(out: &mut String, most: u64) {
    let (length, right) = (HEIGHT - TOP - BOTTOM, WIDTH - RIGHT);
    let step = tick(most);
    for value in (0..=most).step_by(step as usize) {
        let y = HEIGHT - BOTTOM - scale(value, most, length);
        let _ = write!(
            out,
            "<path d=\"M{LEFT},{y}H{right}\" stroke=\"#ddd\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 6,
            y + 4,
            number(value)
        );
    }
}

fn legend<'a>(out: &mut String, names: impl Iterator<Item = &'a str>) {
    for (place, name) in (0u64..).zip(names) {
        let y = TOP + 8 + 18 * place;
        let colour = COLOURS[place as usize % COLOURS.len()];
        let x = WIDTH - RIGHT + 12;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            y - 4,
            x + 18,
            y + 2,
            escaped(name)
        );
    }
}

/// A plot of lines.
pub fn chart(chart: &Chart<'_>, lines: &[Line]) -> String {
    let most = |of: fn(&(u64, u64)) -> u64| lines.iter().flat_map(|line| &line.points).map(of).max().unwrap_or(0);
    let (x_most, y_most) = (most(|point| point.0).max(1), most(|point| point.1).max(1));
    let y_most = y_most.div_ceil(tick(y_most)) * tick(y_most);
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let mut out = String::new();
    open(&mut out, chart);
    y_ticks(&mut out, y_most);
    for value in (0..=x_most).step_by(tick(x_most) as usize) {
        let x = LEFT + scale(value, x_most, width);
        let y = HEIGHT - BOTTOM + 18;
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", number(value));
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        let mut before = None;
        for point in &line.points {
            let (x, y) = (LEFT + scale(point.0, x_most, width), HEIGHT - BOTTOM - scale(point.1, y_most, height));
            // Points that fall on one another draw nothing.
            if before == Some((x, y)) {
                continue;
            }
            let _ = match before {
                None => write!(path, "M{x},{y}"),
                Some(_) if line.steps => write!(path, "H{x}V{y}"),
                Some(_) => write!(path, "L{x},{y}"),
            };
            before = Some((x, y));
        }
        let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    }
    legend(&mut out, lines.iter().map(|line| line.name.as_str()));
    out.push_str("</svg>\n");
    out
}

/// A plot of bars: groups of bars, each group named, one bar in it for each of `names`.
pub fn bars(chart: &Chart<'_>, names: &[&str], groups: &[(String, Vec<u64>)]) -> String {
    let most = groups.iter().flat_map(|(_, values)| values).copied().max().unwrap_or(0).max(1);
    let most = most.div_ceil(tick(most)) * tick(most);
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let mut out = String::new();
    open(&mut out, chart);
    y_ticks(&mut out, most);
    let group = width / groups.len().max(1) as u64;
    let bar = (group * 8 / 10 / names.len().max(1) as u64).max(1);
    for (place, (name, values)) in (0u64..).zip(groups) {
        let left = LEFT + place * group + group / 10;
        for (number, value) in (0u64..).zip(values) {
            let tall = scale(*value, most, height);
            let colour = COLOURS[number as usize % COLOURS.len()];
            let (x, y) = (left + number * bar, HEIGHT - BOTTOM - tall);
            let _ = writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{bar}\" height=\"{tall}\" fill=\"{colour}\"/>");
        }
        let (x, y) = (LEFT + place * group + group / 2, HEIGHT - BOTTOM + 18);
        if groups.len() <= 12 {
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escaped(name));
        }
    }
    legend(&mut out, names.iter().copied());
    out.push_str("</svg>\n");
    out
}

/// The plots of some runs: file names and pictures.
pub(crate) fn plots(outcomes: &[Outcome]) -> Vec<(&'static str, String)> {
    let name = |outcome: &Outcome| format!("{} {}", outcome.policy, outcome.seed);
    let names: Vec<String> = outcomes.iter().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lines = |points: &dyn Fn(&Outcome) -> Vec<(u64, u64)>, steps: bool| -> Vec<Line> {
        outcomes.iter().map(|it| Line { name: name(it), points: points(it), steps }).collect()
    };
    let seconds = "seconds since the first start";
    let cdf = |it: &Outcome| {
        let of = |done: usize| done as u64 * 100_000 / it.wanted.max(1);
        let done = it.completions.iter().enumerate().map(|(place, at)| (at / 1000, of(place + 1)));
        std::iter::once((0, 0)).chain(done).collect()
    };
    let course = |value: fn(&crate::world::Sample) -> u64, it: &Outcome| {
        let of = |bytes: u64| (u128::from(bytes) * 1000 / u128::from(it.content_bytes.max(1))) as u64;
        it.samples.iter().map(|sample| (sample.at / 1000, of(value(sample)))).collect::<Vec<_>>()
    };
    let causes: Vec<(String, Vec<u64>)> = [
        ("duplicate", (|it| it.books.duplicate) as fn(&Outcome) -> u64),
        ("bad", |it| it.books.bad),
        ("unasked", |it| it.books.unasked),
        ("cancelled", |it| it.books.origin_cancelled),
        ("lost", |it| it.books.lost),
        ("control", |it| it.books.control_bytes),
    ]
    .into_iter()
    .map(|(cause, of)| {
        let share = |it: &Outcome| (u128::from(of(it)) * 100_000 / u128::from(it.books.useful.max(1))) as u64;
        (cause.to_owned(), outcomes.iter().map(share).collect())
    })
    .collect();
    let size = |it: &Outcome| it.content_bytes.max(1);
    let uploads: Vec<(String, Vec<u64>)> = ["least", "p50", "p90", "p99", "most"]
        .into_iter()
        .enumerate()
        .map(|(place, quantile)| {
            let of = |it: &Outcome| {
                let it_is = [it.uploads.least, it.uploads.p50, it.uploads.p90, it.uploads.p99, it.uploads.most];
                (u128::from(it_is[place]) * 1000 / u128::from(size(it))) as u64
            };
            (quantile.to_owned(), outcomes.iter().map(of).collect())
        })
        .collect();
    vec![
        (
            "completion.svg",
            chart(&Chart { title: "Complete downloads", x: seconds, y: "percent complete" }, &lines(&cdf, true)),
        ),
        (
            "origin.svg",
            chart(
                &Chart { title: "What left the origins", x: seconds, y: "copies of the content" },
                &lines(&|it| course(|sample| sample.origin_bytes, it), false),
            ),
        ),
        (
            "cross-site.svg",
            chart(
                &Chart { title: "What crossed between sites", x: seconds, y: "copies of the content" },
                &lines(&|it| course(|sample| sample.cross_bytes, it), false),
            ),
        ),
        (
            "waste.svg",
            bars(&Chart { title: "Bytes of no use, by cause", x: "cause", y: "percent of useful" }, &names, &causes),
        ),
        (
            "uploads.svg",
            bars(
                &Chart { title: "Who uploads how much", x: "machines, by what they sent", y: "copies of the content" },
                &names,
                &uploads,
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for most in [1, 7, 99, 1000, 123_456_789] {
            let tick = tick(most);
            assert!((1..=10).contains(&(most / tick)), "{most} {tick}");
        }
        assert_eq!((number(1500), number(2000), number(5)), ("1.5".into(), "2".into(), "0.005".into()));
    }

    #[test]
    fn a_plot_of_nothing_and_of_strange_names_is_still_a_picture() {
        let line = Line { name: "<a & \"b\">".into(), points: vec![(0, 0), (5, 9)], steps: true };
        let picture = chart(&Chart { title: "t", x: "x", y: "y" }, &[line]);
        assert!(picture.contains("&lt;a &amp; &quot;b&quot;&gt;") && picture.ends_with("</svg>\n"));
        assert!(chart(&Chart { title: "t", x: "x", y: "y" }, &[]).ends_with("</svg>\n"));
        assert!(bars(&Chart { title: "t", x: "x", y: "y" }, &[], &[]).ends_with("</svg>\n"));
    }
}
