//! `cloister bench sealing`: what reading and writing through the vault costs beside plain files; first what the product
//! does with sealed bytes in bulk, then the vault alone.

use std::{
    cell::Cell,
    fs::{self, File},
    hint::black_box,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    base::{
        Context, Id, IdKind, Philox, Result, Silent,
        fs::sync_parent,
        units::{Bytes, Count},
    },
    cli::{progress::Line, session::Session},
    corpus::{
        Admitted, DocumentRef, Intake, NewDocument, Refusal, SnapshotSpec, TokenSet,
        clean::Clean,
        extents::{self, ExtentsSpec},
        ingest::{self, IngestSpec},
        snapshot,
        split::SplitSpec,
        tokenizer::{self, TokenizerSpec},
    },
    device::Device,
    model::{
        Decoder, Options,
        weights::{self, OpenFile, WeightsFile},
    },
    nn::Params,
    ops::Exec,
    seal::Writeback,
    tensor::DType,
    train,
    vault::{
        Depot, ObjectWriter, Vault,
        bench::{self, Bench, SealingRow},
    },
    work::{
        Actor, Warden,
        client::Site,
        request::{Ingest, Request},
    },
};

/// Text that is made into tokens, as a share of the bytes asked for: each byte becomes a token of two.
const TEXT_SHARE: usize = 4;
/// A contract, a letter, a chapter.
const DOCUMENT_BYTES: usize = 16 << 10;
const VOCABULARY: u64 = 8192;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write: a folder is made in it and removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    scratch: PathBuf,
    /// How much to read and write each way
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// How often; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Ingest these instead of the documents that ship in the binary
    #[arg(long, value_name = "PATH", num_args = 1..)]
    documents: Vec<PathBuf>,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let line = Line::new();
    let bytes = (args.mib as usize) << 20;
    let bench = Bench::new(&args.scratch, args.rounds as usize, &line)?;
    let mut rows = vec![documents_in(&bench, &args.documents, session.settings.site())?];
    rows.extend(bulk(&bench, bytes)?);
    drop(bench);
    drop(line);
    session.screen.rows(&rows, ["sealed / plain", "sealed", "plain", "what"], |row| {
        let rate = |seconds: f64| format!("{}/s", Bytes((row.bytes as f64 / seconds) as u64));
        [format!("{:.2}", row.ratio), rate(row.sealed_s), rate(row.plain_s), row.what.clone()]
    })
}

/// What is read and written in bulk.
fn bulk(bench: &Bench, bytes: usize) -> Result<Vec<SealingRow>> {
    let mut rows = Vec::new();
    rows.extend(tokens_out(bench, bytes)?);
    rows.extend(weights_out(bench, bytes)?);
    rows.extend(bench::objects(bench, bytes)?);
    Ok(rows)
}

/// Documents taken in as the product does it, by a job in a process of its own, with rows, audit entries and sealed objects;
/// and the same documents read by the same caged readers and kept as durable plain files.
fn documents_in(bench: &Bench, paths: &[PathBuf], beside: Site) -> Result<SealingRow> {
    let paths = paths.iter().map(|path| path.canonicalize().with_context(|| format!("{}", path.display())));
    let paths = paths.collect::<Result<Vec<_>>>()?;
    let sample = paths.is_empty();
    let site = Site { data_dir: bench.place().join("installation"), unsealer: None, ..beside };
    let warden = Warden::init_under(&site, &Bench::new_unsealer()?)?;
    let threads = site.threads.unwrap_or(0);
    let spec = IngestSpec { paths: paths.clone(), sample, threads, ..IngestSpec::default() };
    let plain = || ingest::run(&spec, &Plain::new(bench.place()), &Silent);
    let source_bytes = plain()?.source_bytes;
    bench.tidy()?;
    let turn = Cell::new(0);
    let sealed = || {
        turn.set(turn.get() + 1);
        // What a collection holds already is not taken in again.
        let collection = format!("turn-{}", turn.get());
        let wanted = Ingest { paths: paths.clone(), sample, collection, ..Ingest::default() };
        warden.execute(Actor::this_process(), Request::DataIngest(wanted), &Silent).map(drop)
    };
    let what = if sample { "ingest the sample documents" } else { "ingest the documents" };
    let row = bench.measure(what, source_bytes, || plain().map(drop), sealed, || bench.tidy())?;
    drop(warden);
    // What is measured next syncs and forgets every file that is left.
    fs::remove_dir_all(&site.data_dir).with_context(|| format!("removing {}", site.data_dir.display()))?;
    Ok(row)
}

/// Keeps documents as durable plain files, a batch at a time as the product does: the disk is at work on all of them before
/// the first is waited for.
struct Plain<'a> {
    place: &'a Path,
    files: AtomicU64,
}

impl<'a> Plain<'a> {
    fn new(place: &'a Path) -> Self {
        Self { place, files: AtomicU64::new(0) }
    }

    fn write(&self, document: &NewDocument) -> Result<File> {
        let path = self.place.join(format!("document-{}", self.files.fetch_add(1, Ordering::Relaxed)));
        let write = || -> io::Result<File> {
            let mut file = File::create(&path)?;
            file.write_all(document.text.as_bytes())?;
            Writeback::begin(&file);
            Ok(file)
        };
        write().with_context(|| format!("writing {}", path.display()))
    }
}

impl Intake for Plain<'_> {
    fn admit(&self, batch: Vec<NewDocument>) -> Result<Vec<Admitted>> {
        let files = batch.iter().map(|document| self.write(document)).collect::<Result<Vec<_>>>()?;
        files.iter().try_for_each(File::sync_all).context("syncing plain documents")?;
        sync_parent(&self.place.join("document-0"))?;
        Ok(vec![Admitted::New; batch.len()])
    }

    fn quarantine(&self, _: Vec<Refusal>) -> Result<()> {
        Ok(())
    }
}

/// All tokens of a dataset into memory: out of sealed extents, each under its document's key; and the same numbers
/// out of one plain file.
fn tokens_out(bench: &Bench, bytes: usize) -> Result<[SealingRow; 2]> {
    let shards = tokenised(bench.vault(), bytes / TEXT_SHARE)?;
    let set = TokenSet::open(bench.vault(), &shards)?;
    let mut tokens = Vec::new();
    let mut packed = Vec::new();
    for index in 0..set.documents().len() {
        set.read(index, &mut tokens)?;
        packed.extend(tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()));
    }
    let plain = bench.place().join("tokens");
    fs::write(&plain, &packed).with_context(|| format!("writing {}", plain.display()))?;
    let what = format!("load the tokens of {} documents", set.documents().len());
    let rows = disk_and_cache(
        bench,
        &what,
        packed.len() as u64,
        || bench::read_plain(&plain),
        || TokenSet::open(bench.vault(), &shards)?.load().map(|all| drop(black_box(all))),
    )?;
    bench.tidy()?;
    Ok(rows)
}

/// Token shards of documents of random letters, one token a byte: what they say is of no matter here.
fn tokenised(vault: &Vault, text_bytes: usize) -> Result<Vec<Id>> {
    let mut rng = Philox::new(2, 0);
    let mut documents = Vec::new();
    for _ in 0..text_bytes.div_ceil(DOCUMENT_BYTES) {
        let mut letter = || if rng.below(6) == 0 { b' ' } else { b'a' + rng.below(26) as u8 };
        let text: Vec<u8> = (0..DOCUMENT_BYTES).map(|_| letter()).collect();
        documents.push(written(vault, &text)?);
    }
    let documents = vault.commit_all(documents)?.into_iter();
    let documents = documents.map(|object| DocumentRef { document: object, version: 1, object }).collect();
    let spec = SnapshotSpec { documents, clean: Clean::default(), split: SplitSpec::default(), threads: 0 };
    let snapshot = snapshot::run(&spec, vault, &Silent)?.snapshot;
    // 256 bytes and the special tokens: no merges.
    let spec = TokenizerSpec { snapshot, vocab_size: Some(264), threads: 0 };
    let tokenizer = tokenizer::run(&spec, vault, &Silent)?.tokenizer;
    Ok(extents::run(&ExtentsSpec { snapshot, tokenizer, threads: 0 }, vault, &Silent)?.shards)
}

fn written(vault: &Vault, bytes: &[u8]) -> Result<ObjectWriter> {
    let mut object = vault.create(IdKind::Document, bytes.len() as u64)?;
    object.write_all(bytes).context("writing an object")?;
    Ok(object)
}

/// A model into memory taken for it, as after a start: out of a sealed object and out of a plain file.
fn weights_out(bench: &Bench, bytes: usize) -> Result<[SealingRow; 2]> {
    let parameters = (bytes / DType::Bf16.size_bytes()) as u64;
    let shape = train::Shape::choose(&train::RunConfig::default(), parameters, VOCABULARY)?;
    let (config, options) = (shape.config(), Options { dtype: DType::Bf16, recompute: false, positions: 1 });
    let build = |exec: Exec| -> Result<(Params, Exec)> {
        let decoder = Decoder::new(&exec, &config, options)?;
        Ok((decoder.new_params(&exec)?, exec))
    };
    let device = Device::cpu(None);
    let needs = build(Exec::dry(device.clone()))?.1.persistent.peak_bytes();
    let empty = || build(Exec::new(device.clone(), 0, needs)?);
    let (plain, sealed) = (bench.place().join("weights"), bench.vault());
    let (mut params, exec) = empty()?;
    params.init(&exec, 1);
    let file = File::create(&plain).with_context(|| format!("writing {}", plain.display()))?;
    weights::save(&params, &config, &mut BufWriter::new(file))?;
    let len_bytes = weights::len_bytes(&params, &config)?;
    let mut object = sealed.create(IdKind::Model, len_bytes)?;
    weights::save(&params, &config, &mut object)?;
    let object = sealed.commit(object)?;
    drop((params, exec));
    let rows = disk_and_cache(
        bench,
        &format!("load a model of {} parameters", Count(shape.parameters() as f64)),
        len_bytes,
        || weights::load(&mut empty()?.0, &[WeightsFile::open(OpenFile::open(&plain)?)?]),
        || weights::load(&mut empty()?.0, &[WeightsFile::open(sealed.open(object)?)?]),
    )?;
    bench.tidy()?;
    Ok(rows)
}

/// Reading what lies on the disk, as after a start, and what the system still holds in its page cache.
fn disk_and_cache(
    bench: &Bench,
    what: &str,
    bytes: u64,
    plain: impl Fn() -> Result<()>,
    sealed: impl Fn() -> Result<()>,
) -> Result<[SealingRow; 2]> {
    let from_disk =
        bench.measure(&format!("{what}, from disk"), bytes, &plain, &sealed, || bench.forget())?;
    let cached = bench.measure(&format!("{what}, cached"), bytes, &plain, &sealed, || Ok(()))?;
    Ok([from_disk, cached])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_what_is_read_in_bulk_and_leaves_nothing() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let bench = Bench::new(scratch.path(), 1, &Silent).expect("a vault");
        let rows = bulk(&bench, 1 << 20).expect("bench");
        assert!(rows.iter().all(|row| row.ratio > 0.0 && row.plain_s > 0.0 && row.bytes > 0), "{rows:?}");
        assert!(rows[..4].iter().all(|row| row.what.starts_with("load ")), "{rows:?}");
        drop(bench);
        assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 0);
    }
}
