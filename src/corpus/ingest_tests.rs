use std::sync::Mutex;

use super::*;
use crate::{base::Silent, corpus::hostile};

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
    std::fs::write(directory.path().join("17.bin"), b"no text \0\x01\x02\x03\x04\x05\x06").expect("file");
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

#[test]
fn the_sample_documents_are_taken_but_for_the_one_that_is_damaged_on_purpose() {
    let kept = Kept::default();
    let spec = IngestSpec { sample: true, collection: "sample".into(), ..IngestSpec::default() };
    let report = run(&spec, &kept, &Silent).expect("ingest");
    assert_eq!((report.files, report.new, report.refused), (143, 200, 1));
    let formats: Vec<Format> = report.by_format.keys().copied().collect();
    let all = [Format::Txt, Format::Md, Format::Html, Format::Csv, Format::Jsonl, Format::Pdf, Format::Docx];
    assert_eq!(formats, all);
    assert!(report.text_bytes > 2_500_000, "{report:?}");
    let refusals = kept.refusals.into_inner().expect("no panic");
    assert!(refusals[0].name.ends_with("damaged-on-purpose.pdf"));
    assert_eq!((refusals[0].reason, refusals[0].format), (Reason::Malformed, Some(Format::Pdf)));
}

#[test]
fn the_same_folder_is_read_the_same_however_many_readers_there_are() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let rows: String = (0..300).map(|row| format!("{{\"text\": \"row {row}\"}}\n")).collect();
    for number in 0..6 {
        std::fs::write(directory.path().join(format!("{number}.jsonl")), &rows).expect("file");
        std::fs::write(directory.path().join(format!("{number}.txt")), "x".repeat(number * 1000))
            .expect("file");
    }
    let names = |threads| {
        let kept = Kept::default();
        let report = run(&IngestSpec { threads, ..spec(directory.path()) }, &kept, &Silent).expect("ingest");
        assert_eq!((report.new, report.refused), (1805, 1));
        kept.documents
            .into_inner()
            .expect("no panic")
            .into_iter()
            .map(|document| document.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(1), names(4));
}

/// Asks to stop as soon as anything was handed over.
struct StopsEarly(Mutex<u64>);

impl Monitor for StopsEarly {
    fn progress(&self, progress: &Progress) {
        *self.0.lock().expect("no panic") += u64::from(progress.done > 0);
    }
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        *self.0.lock().expect("no panic") > 0
    }
}

#[test]
fn what_was_handed_over_before_a_stop_stays() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for number in 0..600 {
        std::fs::write(directory.path().join(format!("{number:03}.txt")), "some text").expect("file");
    }
    let kept = Kept::default();
    let error = run(&spec(directory.path()), &kept, &StopsEarly(Mutex::new(0))).unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Interrupted);
    let documents = kept.documents.into_inner().expect("no panic").len();
    assert!((BATCH_DOCUMENTS..600).contains(&documents), "{documents}");
}

/// Asks to stop while the first document is being read.
struct StopsSoon(Instant);

impl Monitor for StopsSoon {
    fn progress(&self, _: &Progress) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        self.0.elapsed() > Duration::from_secs(1)
    }
}

#[test]
fn a_stop_does_not_wait_for_the_document_that_is_being_read() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join("endless.pdf"), hostile::long_loop()).expect("file");
    let kept = Kept::default();
    let error = run(&spec(directory.path()), &kept, &StopsSoon(Instant::now())).unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Interrupted);
    assert!(kept.refusals.into_inner().expect("no panic").is_empty(), "it was not read to its end");
}

struct Full;

impl Intake for Full {
    fn admit(&self, _: Vec<NewDocument>) -> Result<Vec<Admitted>> {
        Err(Error::unavailable("no space left on device"))
    }
    fn quarantine(&self, _: Vec<Refusal>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_ingest_with_that_error() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for number in 0..100 {
        std::fs::write(directory.path().join(format!("{number}.txt")), "text".repeat(100_000)).expect("file");
    }
    let error = run(&spec(directory.path()), &Full, &Silent).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
}

/// As a steward meets them: in one folder with what is wanted.
#[test]
fn documents_that_bite_end_in_quarantine_and_the_rest_of_the_folder_is_taken() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let hostile = hostile::all();
    for (name, bytes, _) in &hostile {
        std::fs::write(directory.path().join(name), bytes).expect("file");
        std::fs::write(directory.path().join(format!("{name}.after.txt")), format!("after {name}"))
            .expect("file");
    }
    let started = Instant::now();
    let kept = Kept::default();
    let report = run(&spec(directory.path()), &kept, &Silent).expect("the ingest goes on");
    let (documents, refusals) =
        (kept.documents.into_inner().expect("no panic"), kept.refusals.into_inner().expect("no panic"));
    let mut wrong = Vec::new();
    for (name, _, may_be) in &hostile {
        let is_it = |path: &str| path.ends_with(&format!("/{name}"));
        let refused = refusals.iter().find(|refusal| is_it(&refusal.name)).map(|refusal| refusal.reason);
        let taken = documents.iter().find(|document| is_it(&document.name));
        let right = match refused {
            Some(reason) => may_be.contains(&reason),
            None => may_be.is_empty() && taken.is_some_and(|document| document.text.contains("kept words")),
        };
        if !right {
            wrong.push(format!("{name}: {refused:?}, {:?}", taken.map(|document| document.text.len())));
        }
        let after = documents.iter().find(|document| document.name.ends_with(&format!("{name}.after.txt")));
        assert_eq!(after.map(|document| document.text.clone()), Some(format!("after {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(report.files, 2 * hostile.len() as u64);
    assert!(!Path::new("/tmp/cloister-slip").exists(), "nothing is unpacked anywhere");
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let secret = passwd.lines().next().filter(|line| !line.is_empty()).unwrap_or("root:");
    assert!(documents.iter().all(|document| !document.text.contains(secret)), "nothing was fetched");
    // Each has 30 seconds; that most need none of it keeps this test short, and says so when it is not.
    eprintln!("{:.1} s for {} documents that bite", started.elapsed().as_secs_f64(), hostile.len());
}
