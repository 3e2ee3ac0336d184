//! The command line before any command does its work: usage, help, configuration, errors as text and as JSON.

use std::process::Stdio;

use piecework::cli;
use piecework::content::Code;

use crate::support::scene::{Outcome, Scene};

#[test]
fn wrong_usage_exits_64_and_says_what_is_wrong() {
    let scene = Scene::new();
    for arguments in [vec![], vec!["fly"], vec!["key"], vec!["key", "new"], vec!["key", "new", "a", "--wings"]] {
        let outcome = scene.run(&arguments);
        assert_eq!(outcome.code, Some(64), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{arguments:?}");
    }
    let told = scene.run(["key", "new", "--json"]);
    assert_eq!((told.code, &told.json()["code"]), (Some(64), &"usage".into()));
    assert!(told.stderr.is_empty(), "{}", told.stderr);
}

#[test]
fn help_and_version_exit_0_on_stdout() {
    let scene = Scene::new();
    assert!(scene.run(["--version"]).ok().stdout.starts_with("piecework "));
    fn look(scene: &Scene, command: &clap::Command, path: &[&str]) {
        let help = scene.run(path.iter().copied().chain(["--help"])).ok();
        assert!(help.stdout.contains("Example") || command.has_subcommands(), "{path:?}: {}", help.stdout);
        for flag in ["--config", "--state", "--verbose", "--quiet"] {
            assert!(help.stdout.contains(flag), "{path:?} does not know {flag}");
        }
        for command in command.get_subcommands() {
            look(scene, command, &[path, &[command.get_name()]].concat());
        }
    }
    look(&scene, &cli::grammar(), &[]);
}

#[test]
fn an_error_is_text_on_stderr_or_json_on_stdout() {
    let scene = Scene::new();
    let text = scene.run(["key", "show", "nowhere"]).fails("input_missing", 66);
    assert!(text.stdout.is_empty());
    assert!(text.stderr.contains("on: nowhere"), "{}", text.stderr);
    let told = scene.run(["key", "show", "nowhere", "--json"]);
    assert_eq!(told.code, Some(66));
    let json = told.json();
    let keys: Vec<_> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert_eq!((&json["code"], &json["culprit"]), (&"input_missing".into(), &"nowhere".into()));
    assert!(json["message"].is_string() && json["remedy"].is_string());
}

#[test]
fn a_stranger_cannot_command_the_terminal_through_an_error() {
    let scene = Scene::new();
    let outcome = scene.run(["key", "show", "a\x1b[2Jb\nerror: forged"]);
    assert!(!outcome.stderr.contains('\x1b') && !outcome.stderr.contains("\nerror: forged"), "{:?}", outcome.stderr);
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_one_is() {
    let scene = Scene::new();
    let mut command = scene.command(["completions", "bash"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert!(command.stdout(writer).status().expect("started").success());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let mut command = scene.command(["completions", "bash"]);
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("started");
    Outcome::from(child.wait_with_output().expect("a child of ours")).fails("disk_full", 74);
}

#[test]
fn a_log_level_that_does_not_parse_is_refused() {
    let scene = Scene::new();
    let mut command = scene.command(["completions", "bash"]);
    command.env("PIECEWORK_LOG", "piecework=loud");
    Outcome::of(command).fails("bad_config", 78);
    let mut command = scene.command(["completions", "bash"]);
    command.env("PIECEWORK_LOG", "piecework::swarm=trace,warn");
    Outcome::of(command).ok();
}

#[test]
fn completions_exist_for_every_common_shell() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scene.run(["completions", shell]).ok().stdout;
        assert!(script.contains("piecework") && script.len() > 500, "{shell}: {script}");
    }
}

#[test]
fn every_code_word_is_explained_in_the_documentation() {
    let text = include_str!("../../docs/refusals.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let written: Vec<(&str, String)> = rows.iter().map(|row| (row[0], row[1].to_owned())).collect();
    let expected: Vec<_> = Code::ALL.iter().map(|code| (code.word(), code.exit_code().to_string())).collect();
    assert_eq!(written, expected, "docs/refusals.md and content/code.rs differ");
    for (row, code) in rows.iter().zip(Code::ALL) {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(!row[2].is_empty(), "{row:?}");
        assert_eq!(row[3].replace('`', ""), cli::error::usual_remedy(*code).replace('`', ""), "{}", code.word());
    }
}
