//! What the product says where CUDA is not as it should be: one clear line, never a panic.

use serde_json::Value;

use super::emulator::Emulator;
use crate::harness::{Site, finish, spawn};

/// What `doctor` found about the device, with an emulator asked for `wishes`.
#[track_caller]
fn device(emulator: &Emulator, wishes: &[(&str, &str)]) -> String {
    let site = Site::initialised();
    let mut command = site.command(&["doctor", "--json"]);
    emulator.lend_to(&mut command).envs(wishes.iter().copied());
    let ran = finish(spawn(command));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
    let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let checks: Vec<Value> =
        lines.flat_map(|value| value.as_array().cloned().unwrap_or(vec![value])).collect();
    let found = find(&checks).unwrap_or_else(|| panic!("no check of the device in\n{}", ran.all()));
    assert!(!found.contains('\n'), "{found}");
    found
}

/// The check named `device`, wherever the document has it.
fn find(values: &[Value]) -> Option<String> {
    values.iter().find_map(|value| {
        if value["name"] == "device" {
            return value["found"].as_str().map(str::to_owned);
        }
        let inner: Vec<Value> = match value {
            Value::Array(inner) => inner.clone(),
            Value::Object(inner) => inner.values().cloned().collect(),
            _ => return None,
        };
        find(&inner)
    })
}

#[test]
fn doctor_finds_the_card() {
    let found = device(Emulator::built(), &[]);
    assert!(found.contains("13.0") && found.contains('1'), "{found}");
}

#[test]
fn doctor_names_an_old_driver_by_its_version() {
    let found = device(Emulator::built(), &[("CUDA_ON_CPU_DRIVER", "12080")]);
    assert!(found.contains("12.8"), "{found}");
}

#[test]
fn doctor_says_that_there_is_no_card() {
    let found = device(Emulator::built(), &[("CUDA_ON_CPU_DEVICES", "0")]);
    assert!(found.contains("CPU") && found.contains("card"), "{found}");
}

#[test]
fn doctor_names_a_symbol_that_the_driver_lacks() {
    let found = device(&Emulator::without("cuDeviceGetCount"), &[]);
    assert!(found.contains("cuDeviceGetCount"), "{found}");
}
