use std::sync::Mutex;

use super::*;
use crate::base::Silent;

#[derive(Default)]
struct Kept {
    documents: Mutex<Vec<NewDocument>>,
    refusals: Mutex<Vec<Refusal>>,
}

impl Intake for Kept {
    fn admit(&self, batch: Vec<NewDocument>) -> Result<Vec<Admitted>> {
        let outcomes = vec![Admitted::New; batch.len()];
        self.documents.lock().expect("no panic").extend(batch);
        Ok(outcomes)
    }

    fn quarantine(&self, batch: Vec<Refusal>) -> Result<()> {
        self.refusals.lock().expect("no panic").extend(batch);
        Ok(())
    }
}

fn spec(path: &Path) -> IngestSpec {
    IngestSpec { paths: vec![path.to_path_buf()], collection: "c".into(), ..IngestSpec::default() }
}

#[test]
fn takes_what_it_can_in_order_and_says_why_not_the_rest() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for number in 0..40 {
        std::fs::write(directory.path().join(format!("{number:02}.txt")), format!("text {number}"))
            .expect("file");
    }
    std::fs::write(directory.path().join("17.bin"), b"\x7fELF\0\0\0\0").expect("file");
    let kept = Kept::default();
    let report = run(&spec(directory.path()), &kept, &Silent).expect("ingest");
    assert_eq!((report.files, report.new, report.refused), (41, 40, 1));
    let texts: Vec<String> =
        kept.documents.into_inner().expect("no panic").into_iter().map(|d| d.text).collect();
    assert_eq!(texts, (0..40).map(|number| format!("text {number}")).collect::<Vec<_>>());
    assert_eq!(kept.refusals.into_inner().expect("no panic")[0].reason, Reason::Binary);
}

#[test]
fn an_empty_folder_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let error = run(&spec(directory.path()), &Kept::default(), &Silent).unwrap_err();
    assert!(error.to_string().contains("no file in"), "{error}");
}
