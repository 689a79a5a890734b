//! What sealing costs: the same bytes read and written through a vault and as plain files, side by side. The
//! plain files hold random bytes, so nothing unsealed ever lies on the disk.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use memmap2::MmapMut;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use super::{Depot, Unsealer, Vault};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Philox, Progress, Result},
    seal::{Secret, random_bytes},
};

/// What a reader or writer of a stream handles at once.
const PIECE_BYTES: usize = 256 << 10;
/// Objects that an ingest commits at once.
const COMMIT_TOGETHER: usize = 32;

/// One way to use the vault beside the same with plain files. Times are the medians of all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SealingRow {
    pub what: String,
    pub bytes: u64,
    pub plain_s: f64,
    pub sealed_s: f64,
    /// Sealed over plain, of the same round; the median. 1.10 means a tenth slower.
    pub ratio: f64,
}

struct Case {
    what: &'static str,
    object_bytes: usize,
    plain: fn(&[PathBuf]) -> Result<()>,
    sealed: fn(&Vault, &[Id]) -> Result<()>,
}

/// Reads and writes `bytes` each way.
pub fn objects(bench: &Bench, bytes: usize) -> Result<Vec<SealingRow>> {
    let (place, vault) = (bench.place(), bench.vault());
    let reads = [
        Case {
            what: "load one object whole",
            object_bytes: bytes,
            plain: |files| files.iter().try_for_each(|file| read_plain(file)),
            sealed: |vault, ids| {
                ids.iter().try_for_each(|&id| vault.open(id)?.read_all().map(|all| drop(black_box(all))))
            },
        },
        Case {
            what: "load one object whole, both with all threads",
            object_bytes: bytes,
            plain: |files| files.iter().try_for_each(|file| plain_read_whole_by_threads(file)),
            sealed: |vault, ids| {
                ids.iter().try_for_each(|&id| vault.open(id)?.read_all().map(|all| drop(black_box(all))))
            },
        },
        Case {
            what: "stream one object into memory, piece by piece",
            object_bytes: bytes,
            plain: |files| files.iter().try_for_each(|file| stream_plain(file)),
            sealed: |vault, ids| ids.iter().try_for_each(|&id| stream_sealed(vault, id)),
        },
        Case {
            what: "read documents of 64 KiB",
            object_bytes: 64 << 10,
            plain: |files| {
                files.iter().try_for_each(|file| fs::read(file).map(drop).context("reading a plain file"))
            },
            sealed: |vault, ids| {
                ids.iter().try_for_each(|&id| vault.open(id)?.read_all().map(|all| drop(black_box(all))))
            },
        },
    ];
    let mut rows = Vec::new();
    for case in &reads {
        let count = (bytes / case.object_bytes).clamp(1, 2048);
        let (files, ids) = lay_out(place, vault, count, case.object_bytes)?;
        let total = (count * case.object_bytes) as u64;
        let (plain, sealed) = (|| (case.plain)(&files), || (case.sealed)(vault, &ids));
        rows.push(bench.measure(case.what, total, plain, sealed, || Ok(()))?);
        bench.tidy()?;
    }
    for (what, object_bytes) in
        [("write one object, durably", bytes), ("write documents of 64 KiB, durably", 64 << 10)]
    {
        let count = (bytes / object_bytes).clamp(1, 128);
        let total = (count * object_bytes) as u64;
        let content = random(object_bytes);
        let plain = || write_plain(place, count, &content);
        let sealed = || write_sealed(vault, count, &content);
        rows.push(bench.measure(what, total, plain, sealed, || bench.tidy())?);
    }
    Ok(rows)
}

/// A vault of its own under a folder of its own, both gone when this is, and how measuring is done in them.
pub struct Bench<'a> {
    place: Scratch,
    vault: Vault,
    rounds: usize,
    monitor: &'a dyn Monitor,
}

impl<'a> Bench<'a> {
    /// Everything is measured `rounds` times.
    pub fn new(scratch: &Path, rounds: usize, monitor: &'a dyn Monitor) -> Result<Self> {
        let place = Scratch::new(scratch)?;
        let vault = Vault::init(&place.0, &Self::new_unsealer()?)?;
        Ok(Self { place, vault, rounds, monitor })
    }

    /// A passphrase that nobody will ever know.
    pub fn new_unsealer() -> Result<Unsealer> {
        Ok(Unsealer::Passphrase(Secret::new(random_bytes::<32>()?.to_vec())))
    }

    /// Where plain files may lie.
    pub fn place(&self) -> &Path {
        &self.place.0
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Removes every plain file and every object.
    pub fn tidy(&self) -> Result<()> {
        for file in fs::read_dir(self.place()).context("listing the plain files")? {
            let path = file.context("listing the plain files")?.path();
            if path.is_file() {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        self.vault.delete_all(&self.vault.objects())
    }

    /// Takes every file out of the page cache, so that who reads next waits for the disk.
    pub fn forget(&self) -> Result<()> {
        forget(self.place())
    }

    /// Times `plain` and `sealed` in turn; `tidy` runs between them and is not timed.
    pub fn measure(
        &self,
        what: &str,
        bytes: u64,
        plain: impl Fn() -> Result<()>,
        sealed: impl Fn() -> Result<()>,
        tidy: impl Fn() -> Result<()>,
    ) -> Result<SealingRow> {
        let timed = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
            let start = Instant::now();
            work()?;
            let seconds = start.elapsed().as_secs_f64();
            tidy()?;
            Ok(seconds)
        };
        // The first of each warms what it touches.
        timed(&plain)?;
        timed(&sealed)?;
        let mut times = Vec::new();
        for round in 0..self.rounds {
            if self.monitor.stop_requested() {
                return Err(Error::interrupted("the bench was stopped"));
            }
            // Whoever goes second finds warmer caches: they take turns.
            times.push(if round % 2 == 0 {
                let plain_s = timed(&plain)?;
                (plain_s, timed(&sealed)?)
            } else {
                let sealed_s = timed(&sealed)?;
                (timed(&plain)?, sealed_s)
            });
            self.monitor.progress(&Progress {
                stage: what.to_owned(),
                done: round as u64 + 1,
                total: self.rounds as u64,
                unit: "round".to_owned(),
                ..Progress::default()
            });
        }
        Ok(SealingRow {
            what: what.to_owned(),
            bytes,
            plain_s: median(times.iter().map(|(plain_s, _)| *plain_s)),
            sealed_s: median(times.iter().map(|(_, sealed_s)| *sealed_s)),
            ratio: median(times.iter().map(|(plain_s, sealed_s)| sealed_s / plain_s)),
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn lay_out(
    place: &Path,
    vault: &Vault,
    count: usize,
    object_bytes: usize,
) -> Result<(Vec<PathBuf>, Vec<Id>)> {
    let content = random(object_bytes);
    let (mut files, mut objects) = (Vec::new(), Vec::new());
    for number in 0..count {
        let file = place.join(format!("plain-{number}"));
        fs::write(&file, &content).with_context(|| format!("writing {}", file.display()))?;
        files.push(file);
        let mut object = vault.create(IdKind::Object, object_bytes as u64)?;
        object.write_all(&content).context("writing an object")?;
        objects.push(object);
    }
    Ok((files, vault.commit_all(objects)?))
}

fn open_plain(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn forget(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context("listing what was written")? {
        let path = entry.context("listing what was written")?.path();
        if path.is_dir() {
            forget(&path)?;
        } else if path.is_file() {
            let file = open_plain(&path)?;
            // Only what is on the disk already can leave memory.
            file.sync_all().context("writing to the disk")?;
            fadvise(&file, 0, None, Advice::DontNeed)
                .map_err(io::Error::from)
                .context("emptying the cache")?;
        }
    }
    Ok(())
}

/// A plain file into owned memory, taken from the kernel as after a start: whoever reads into pages that another read left
/// behind spares their zeroing, which costs as much as copying. Large pages, as the sealed side takes.
pub fn read_plain(path: &Path) -> Result<()> {
    let reading = || format!("reading {}", path.display());
    let mut file = open_plain(path)?;
    let length = file.metadata().with_context(reading)?.len() as usize;
    let mut bytes = MmapMut::map_anon(length.max(1)).with_context(reading)?;
    // A wish: nothing fails without it.
    let _ = bytes.advise(memmap2::Advice::HugePage);
    file.read_exact(&mut bytes[..length]).with_context(reading)?;
    black_box(bytes);
    Ok(())
}

fn plain_read_whole_by_threads(path: &Path) -> Result<()> {
    let file = open_plain(path)?;
    let length = file.metadata().context("measuring a plain file")?.len() as usize;
    let mut bytes = vec![0; length];
    let run = length.div_ceil(thread::available_parallelism().map_or(1, usize::from)).max(1);
    thread::scope(|scope| {
        for (number, part) in bytes.chunks_mut(run).enumerate() {
            let file = &file;
            scope.spawn(move || file.read_exact_at(part, (number * run) as u64));
        }
    });
    black_box(bytes);
    Ok(())
}

fn stream_plain(path: &Path) -> Result<()> {
    let file = open_plain(path)?;
    let length = file.metadata().context("measuring a plain file")?.len();
    stream(file, length)
}

fn stream_sealed(vault: &Vault, id: Id) -> Result<()> {
    let object = vault.open(id)?;
    let length = object.len_bytes();
    stream(object, length)
}

fn stream(mut from: impl Read, length_bytes: u64) -> Result<()> {
    let mut bytes = vec![0; length_bytes as usize];
    bytes.chunks_mut(PIECE_BYTES).try_for_each(|piece| from.read_exact(piece)).context("streaming")?;
    black_box(bytes);
    Ok(())
}

fn write_plain(place: &Path, count: usize, content: &[u8]) -> Result<()> {
    for number in 0..count {
        let path = place.join(format!("plain-{number}"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            content.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece))?;
            file.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        crate::base::fs::sync_parent(&path)?;
    }
    Ok(())
}

fn write_sealed(vault: &Vault, count: usize, content: &[u8]) -> Result<()> {
    for first in (0..count).step_by(COMMIT_TOGETHER) {
        let mut written = Vec::new();
        for _ in first..count.min(first + COMMIT_TOGETHER) {
            let mut object = vault.create(IdKind::Object, content.len() as u64)?;
            content
                .chunks(PIECE_BYTES)
                .try_for_each(|piece| object.write_all(piece))
                .context("writing an object")?;
            written.push(object);
        }
        vault.commit_all(written)?;
    }
    Ok(())
}

/// Bytes that nothing compresses; they protect nothing.
fn random(length: usize) -> Vec<u8> {
    let mut rng = Philox::new(1, 0);
    let mut bytes = vec![0; length];
    bytes.chunks_mut(8).for_each(|word| word.copy_from_slice(&rng.next_u64().to_le_bytes()[..word.len()]));
    bytes
}

/// A directory of this run's own, gone when it is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(beside: &Path) -> Result<Self> {
        let place = beside.join(format!("bench-sealing-{}", std::process::id()));
        crate::base::fs::create_private_dir(&place)?;
        Ok(Self(place))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of value is in it, and the measurements are already made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Silent;

    fn rows(scratch: &Path, mib: usize, rounds: usize) -> Vec<SealingRow> {
        let bench = Bench::new(scratch, rounds, &Silent).expect("a vault");
        objects(&bench, mib << 20).expect("bench")
    }

    #[test]
    fn measures_every_row_and_cleans_up() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let rows = rows(directory.path(), 1, 1);
        assert_eq!(rows.len(), 6);
        assert!(rows.iter().all(|row| row.ratio > 0.0 && row.plain_s > 0.0 && row.bytes > 0), "{rows:?}");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
    }

    /// For choosing constants: `cargo test --release bench::tests::prints -- --ignored --nocapture`.
    #[test]
    #[ignore = "prints timings, asserts nothing"]
    fn prints() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for row in rows(directory.path(), 64, 7) {
            let rate = |seconds: f64| row.bytes as f64 / seconds / 1e9;
            println!(
                "{:46} plain {:6.2} GB/s  sealed {:6.2} GB/s  ratio {:.3}",
                row.what,
                rate(row.plain_s),
                rate(row.sealed_s),
                row.ratio
            );
        }
    }
}
