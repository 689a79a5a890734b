//! What every command promises: where it writes, how it ends, whose word wins.

use crate::harness::{Site, finish, spawn};

#[test]
fn results_go_to_standard_output_and_a_reader_may_leave() {
    let site = Site::empty();
    let ran = site.run(&["doctor"]);
    assert!(ran.stdout.contains("processor") && !ran.stdout.contains('\x1b'), "{}", ran.all());
    assert!(!ran.stderr.contains("processor"), "{}", ran.all());
    let rows = site.run(&["doctor", "--json"]);
    assert!(rows.stdout.lines().all(|row| serde_json::from_str::<serde_json::Value>(row).is_ok()));

    let mut child = site.spawn(&["doctor"]);
    drop(child.stdout.take());
    let ran = finish(child);
    assert!(!ran.stderr.contains("panicked") && ran.code.is_some(), "{}", ran.all());
}

#[test]
fn flag_then_variable_then_file_then_default() {
    let site = Site::empty();
    let config = site.file("cloister.toml", format!("data_dir = '{}'\n", site.at("from-file").display()));
    let found = |flag: bool, variable: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister"));
        command.env_remove("CLOISTER_DATA_DIR").args(["--config", &config, "doctor"]);
        if flag {
            command.arg("--data-dir").arg(site.at("from-flag"));
        }
        if variable {
            command.env("CLOISTER_DATA_DIR", site.at("from-variable"));
        }
        finish(spawn(command)).stdout
    };
    assert!(found(true, true).contains("from-flag"));
    assert!(found(false, true).contains("from-variable"));
    assert!(found(false, false).contains("from-file"));
}

#[test]
fn an_unknown_configuration_key_is_refused_by_name() {
    let site = Site::empty();
    let config = site.file("cloister.toml", "treads = 4\n");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister"));
    command.args(["--config", &config, "doctor"]);
    finish(spawn(command)).refused(2, &["treads", "cloister.toml", "help: "]);
}

#[test]
fn what_sealing_costs_is_measured_and_leaves_nothing() {
    let site = Site::empty();
    let letters = site.at("letters");
    std::fs::create_dir(&letters).expect("a folder");
    std::fs::write(letters.join("one.txt"), "The tenant shall give notice in writing.").expect("a letter");
    let (scratch, letters) = (site.at("."), letters.display().to_string());
    let scratch = scratch.display().to_string();
    let bench =
        ["bench", "sealing", "--mib", "1", "--rounds", "1", "--scratch", &scratch, "--documents", &letters];
    let rows = site.json_lines(&bench);
    assert_eq!(rows[0]["what"], "ingest the documents");
    assert_eq!(rows[0]["bytes"], 40);
    assert!(rows.len() > 10 && rows.iter().all(|row| row["ratio"].as_f64() > Some(0.0)), "{rows:?}");
    assert_eq!(std::fs::read_dir(&scratch).expect("list").count(), 1);
}
