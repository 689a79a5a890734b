//! The worker's side of its socket: to a job it is the vault, the listener and the keeper of documents, and each
//! of them is a question to the warden. Objects are sealed here, in the worker, under keys granted one by one.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use serde_json::Value;

use super::{
    frame,
    protocol::{Call, FromWorker, Offered, Reply, Taken, Task, ToWorker},
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Progress, Result},
    corpus::{Admitted, Intake, NewDocument, Refusal},
    seal::{self, Key, WipedVec},
    vault::{self, Depot, ObjectReader, ObjectWriter, ReadGrant, WriteGrant, Written},
};

/// The warden, as a worker sees it.
pub(super) struct Port {
    /// Held for a whole call, so that replies cannot be mixed up.
    calls: Mutex<Receiver<Answer>>,
    out: Mutex<UnixStream>,
    stop: Arc<AtomicBool>,
}

struct Answer {
    reply: Result<Reply>,
    secret: WipedVec,
}

impl Port {
    /// Takes the task from the socket and listens to the warden from now on.
    pub(super) fn open(socket: UnixStream) -> Result<(Self, Task)> {
        let mut from = socket.try_clone().context("opening the worker's socket")?;
        let first = frame::receive::<ToWorker>(&mut from)?.map(|frame| frame.message);
        let Some(ToWorker::Begin(task)) = first else {
            return Err(Error::failed("a worker is started by cloister itself, and was given no task"));
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (answers, calls) = channel();
        let heard = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("warden".into())
            .spawn(move || listen(from, &answers, &heard))
            .context("listening to the warden")?;
        Ok((Self { calls: Mutex::new(calls), out: Mutex::new(socket), stop }, *task))
    }

    /// The last word.
    pub(super) fn finish(&self, outcome: Result<Value>) -> Result<()> {
        self.send(&FromWorker::Finished(outcome))
    }

    fn send(&self, message: &FromWorker) -> Result<()> {
        frame::send(&mut *lock(&self.out), message)
    }

    fn call(&self, call: Call) -> Result<(Reply, WipedVec)> {
        let calls = lock(&self.calls);
        self.send(&FromWorker::Call(call))?;
        let gone = || Error::interrupted("the process that started this work is gone");
        let Answer { reply, secret } = calls.recv().map_err(|_| gone())?;
        Ok((reply?, secret))
    }

    fn grant(&self, call: Call) -> Result<WipedVec> {
        match self.call(call)? {
            (Reply::Granted, secret) => Ok(secret),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn done(&self, call: Call) -> Result<()> {
        match self.call(call)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn seal_text(&self, text: &str) -> Result<(Id, Written)> {
        let mut object = self.create(IdKind::Document, text.len() as u64)?;
        let id = object.id();
        object.write_all(text.as_bytes()).context("sealing a document")?;
        Ok((id, object.close()?))
    }
}

fn listen(mut from: UnixStream, answers: &Sender<Answer>, stop: &AtomicBool) {
    // Whatever ends this loop ends the work: `answers` is dropped, so that a waiting call fails.
    while let Ok(Some(frame)) = frame::receive::<ToWorker>(&mut from) {
        match frame.message {
            ToWorker::Reply(reply) => {
                if answers.send(Answer { reply, secret: frame.secret }).is_err() {
                    break;
                }
            }
            ToWorker::Stop => stop.store(true, Ordering::Relaxed),
            ToWorker::Begin(_) => break,
        }
    }
    stop.store(true, Ordering::Relaxed);
}

impl Depot for Port {
    fn open(&self, id: Id) -> Result<ObjectReader> {
        ReadGrant::from_wire(&self.grant(Call::Open(id))?)?.open()
    }

    fn create(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter> {
        WriteGrant::from_wire(&self.grant(Call::Create { kind, length_bytes })?)?.create()
    }

    fn create_carrying(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter> {
        WriteGrant::from_wire(&self.grant(Call::Create { kind, length_bytes })?)?.create_carrying()
    }

    fn commit(&self, written: ObjectWriter) -> Result<Id> {
        let id = written.id();
        self.commit_all(vec![written])?;
        Ok(id)
    }

    fn commit_all(&self, written: Vec<ObjectWriter>) -> Result<Vec<Id>> {
        let ids: Vec<Id> = written.iter().map(ObjectWriter::id).collect();
        vault::sync_all(written.into_iter().map(ObjectWriter::close).collect::<Result<_>>()?)?;
        self.done(Call::Commit(ids.clone()))?;
        Ok(ids)
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.done(Call::Delete(id))
    }

    fn extent_key(&self, document: Id) -> Result<Key> {
        Key::from_slice(&self.grant(Call::ExtentKey(document))?)
    }
}

impl Monitor for Port {
    fn progress(&self, progress: &Progress) {
        // A warden that is gone ends the work at its next call; a line of progress is not worth it.
        let _ = self.send(&FromWorker::Progress(progress.clone()));
    }

    fn note(&self, message: &str) {
        let _ = self.send(&FromWorker::Note(message.to_owned()));
    }

    fn text(&self, piece: &str) {
        let _ = self.send(&FromWorker::Text(piece.to_owned()));
    }

    fn record(&self, kind: &str, fact: &Value) -> Result<()> {
        self.done(Call::Record { kind: kind.to_owned(), fact: fact.clone() })
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Intake for Port {
    fn admit(&self, batch: Vec<NewDocument>) -> Result<Vec<Admitted>> {
        let offers: Vec<Offered> = batch.iter().map(offer).collect();
        let admitted = match self.call(Call::Offer(offers))? {
            (Reply::Offered(admitted), _) if admitted.len() == batch.len() => admitted,
            (other, _) => return Err(unexpected(&other)),
        };
        let (mut taken, mut written) = (Vec::new(), Vec::new());
        for (document, _) in batch.iter().zip(&admitted).filter(|(_, is)| **is != Admitted::Unchanged) {
            let (object, closed) = self.seal_text(&document.text)?;
            written.push(closed);
            taken.push(Taken {
                offered: offer(document),
                format: document.format,
                source_bytes: document.source_bytes,
                text_bytes: document.text.len() as u64,
                object,
            });
        }
        if taken.is_empty() {
            return Ok(admitted);
        }
        vault::sync_all(written)?;
        self.done(Call::Admit(taken))?;
        Ok(admitted)
    }

    fn quarantine(&self, batch: Vec<Refusal>) -> Result<()> {
        self.done(Call::Quarantine(batch))
    }

    fn reads(&self, process: u32) {
        // A warden that is gone ends the work at its next call.
        let _ = self.send(&FromWorker::Reader(process));
    }
}

fn offer(document: &NewDocument) -> Offered {
    Offered {
        collection: document.collection.clone(),
        name: document.name.clone(),
        subjects: document.subjects.clone(),
        licence: document.licence.clone(),
        text_sha256: seal::sha256(document.text.as_bytes()),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::failed(format!("the warden answered another question ({reply:?})"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
