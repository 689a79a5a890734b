use super::*;
use crate::base::Silent;

/// Copies, and drawing from logits, which are f32 whatever the model's type is.
const EXACT: [&str; 2] = ["embedding forward", "sampling"];

/// One test body for every device: here the processor's f32 and bf16 against its f64.
#[test]
fn the_processor_passes() {
    for finding in run(&Device::cpu(Some(2)), &Silent).expect("it runs") {
        assert!(finding.passed, "{finding:?}");
        assert_eq!(finding.worst_error == 0.0, EXACT.contains(&finding.kernel), "{finding:?}");
    }
}

fn outputs(numbers: &[f64]) -> Outputs {
    Outputs(vec![("y", numbers.to_vec())])
}

#[test]
fn an_error_is_measured_and_what_is_no_number_is_the_worst() {
    let due = outputs(&[3.0, 4.0]);
    assert_eq!(outputs(&[3.0, 4.0]).error_against(&due), 0.0);
    assert_eq!(outputs(&[3.0, 4.5]).error_against(&due), 0.1);
    assert!(outputs(&[f64::NAN, 4.0]).error_against(&due).is_nan());
    assert_eq!(outputs(&[f64::NAN, 4.0]).not_a_number(), Some("y"));
    assert!(outputs(&[0.0]).differ(&outputs(&[-0.0])), "every bit counts");
}

/// A kernel that forgets its output, and one that gives another result each time.
#[test]
fn what_is_unwritten_or_unsteady_is_named() {
    static FORGETS: Case = Case {
        kernel: "forgets",
        letters: "N",
        shapes: &[[4, 0, 0, 0, 0]],
        run: |lab, [n, ..]| lab.outputs([("y", &lab.output([n])?)]),
    };
    static WAVERS: Case = Case {
        kernel: "wavers",
        letters: "N",
        shapes: &[[4, 0, 0, 0, 0]],
        run: |_, _| {
            static TIMES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let times = TIMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(outputs(&[1.0 + 1e-9 * f64::from(times)]))
        },
    };
    let fault = |case| try_one(&Device::cpu(Some(1)), case, DType::F32).expect("it runs").fault;
    assert_eq!(fault(&FORGETS).as_deref(), Some("y was not written, or is no number, at N 4"));
    assert_eq!(fault(&WAVERS).as_deref(), Some("two runs differ at N 4"));
}
