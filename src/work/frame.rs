//! Messages over a local socket: a length-prefixed JSON text, and beside it secret bytes that are wiped when they
//! go. Worker and warden speak it. A frame is taken whole or refused.

use std::io::{ErrorKind, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    base::{Context, Error, Result},
    seal::WipedVec,
};

/// Lists of a million rows fit; a length beyond it is not one of ours.
const JSON_BYTES_MAX: usize = 1 << 30;
/// A granted key and the facts about its file.
const SECRET_BYTES_MAX: usize = 64 << 10;
const HEAD_BYTES: usize = 8;
/// A length is believed only as far as its bytes have arrived.
const READ_STEP_BYTES: usize = 1 << 20;

/// A message as it arrived.
pub(super) struct Frame<T> {
    pub message: T,
    /// Empty for most messages.
    pub secret: WipedVec,
}

/// Sends one message.
pub(super) fn send<T: Serialize>(to: &mut impl Write, message: &T) -> Result<()> {
    send_with_secret(to, message, &[])
}

/// Sends one message with bytes that must not be kept anywhere.
pub(super) fn send_with_secret<T: Serialize>(to: &mut impl Write, message: &T, secret: &[u8]) -> Result<()> {
    let mut bytes = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut bytes, message).context("writing a message")?;
    let json_bytes = bytes.len() - HEAD_BYTES;
    if json_bytes > JSON_BYTES_MAX || secret.len() > SECRET_BYTES_MAX {
        return Err(Error::failed(format!("a message of {json_bytes} bytes is too large to send")));
    }
    bytes[..4].copy_from_slice(&(json_bytes as u32).to_le_bytes());
    bytes[4..HEAD_BYTES].copy_from_slice(&(secret.len() as u32).to_le_bytes());
    to.write_all(&bytes).context("sending a message")?;
    to.write_all(secret).context("sending a message")?;
    to.flush().context("sending a message")
}

/// The next message; None where the other side closed the socket between two messages.
///
/// # Errors
/// `Unavailable` where it closed inside one, `Integrity` where what arrived is no message.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<Frame<T>>> {
    let mut head = [0; HEAD_BYTES];
    if !read_or_end(from, &mut head)? {
        return Ok(None);
    }
    let length =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (json_bytes, secret_bytes) = (length(0), length(4));
    if json_bytes == 0 || json_bytes > JSON_BYTES_MAX || secret_bytes > SECRET_BYTES_MAX {
        return Err(Error::integrity("what arrived over the socket is no message"));
    }
    let mut json = Vec::new();
    while json.len() < json_bytes {
        let start = json.len();
        json.resize(json_bytes.min(start + READ_STEP_BYTES), 0);
        read_rest(from, &mut json[start..])?;
    }
    let mut secret = WipedVec::zeroed(secret_bytes);
    read_rest(from, &mut secret)?;
    let message = serde_json::from_slice(&json).map_err(|error| {
        // serde's own text quotes what it could not read.
        Error::integrity(format!("a message over the socket does not read (column {})", error.column()))
    })?;
    Ok(Some(Frame { message, secret }))
}

/// False where the stream ended before the first byte.
fn read_or_end(from: &mut impl Read, head: &mut [u8; HEAD_BYTES]) -> Result<bool> {
    loop {
        return match from.read(&mut head[..1]) {
            Ok(0) => Ok(false),
            Ok(_) => read_rest(from, &mut head[1..]).map(|()| true),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The other process died with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("reading a message"),
        };
    }
}

fn read_rest(from: &mut impl Read, out: &mut [u8]) -> Result<()> {
    from.read_exact(out)
        .map_err(|error| Error::unavailable(format!("the other side went away inside a message ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            ErrorKind as Kind, Id, IdKind,
            damage::{FIRST_TIER, again_and_again},
        },
        work::protocol::{Call, FromWorker},
    };

    fn sent(message: &str, secret: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send_with_secret(&mut bytes, &message, secret).unwrap();
        bytes
    }

    fn received(mut bytes: &[u8]) -> Result<Option<Frame<String>>> {
        receive(&mut bytes)
    }

    #[test]
    fn messages_and_secrets_arrive_in_order() {
        let mut bytes = sent("one", b"key");
        bytes.extend(sent("", b""));
        let mut stream = bytes.as_slice();
        let first: Frame<String> = receive(&mut stream).unwrap().unwrap();
        assert_eq!((first.message.as_str(), &first.secret[..]), ("one", &b"key"[..]));
        let second: Frame<String> = receive(&mut stream).unwrap().unwrap();
        assert_eq!((second.message.as_str(), second.secret.len()), ("", 0));
        assert!(receive::<String>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let whole = sent("some message", b"secret");
        for cut in 1..whole.len() {
            let error = received(&whole[..cut]).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_are_not_ours_cost_no_memory() {
        for head in [[0xFF; 8], [0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]] {
            assert_eq!(received(&head).map(|_| ()).unwrap_err().kind(), Kind::Integrity, "{head:?}");
        }
        // A gibibyte is promised and nothing comes.
        let mut promise = (JSON_BYTES_MAX as u32).to_le_bytes().to_vec();
        promise.extend([0; 4]);
        assert_eq!(received(&promise).map(|_| ()).unwrap_err().kind(), Kind::Unavailable);
    }

    #[test]
    fn what_is_not_the_expected_message_is_refused_without_quoting_it() {
        for text in ["{", "17", "[\"planted words\"]", "\"planted", "\u{0}"] {
            let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(text.as_bytes());
            let error = received(&bytes).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::Integrity, "{text}");
            assert!(!error.to_string().contains("planted"), "{error}");
        }
    }

    /// Of frames between warden and worker, in the long tier.
    const MUTATIONS: u64 = 60_000;

    #[test]
    fn random_damage_is_refused_or_is_a_message() {
        withstands_damage(MUTATIONS / FIRST_TIER);
    }

    #[test]
    #[ignore = "the long tier: a minute"]
    fn random_damage_is_always_refused_or_is_a_message() {
        withstands_damage(MUTATIONS);
    }

    fn withstands_damage(mutations: u64) {
        let id = Id::from_parts(IdKind::Document, 1, [7; 10]);
        let calls = [
            FromWorker::Call(Call::Open(id)),
            FromWorker::Call(Call::Create { kind: IdKind::Shard, length_bytes: 1 << 40 }),
            FromWorker::Call(Call::Commit(vec![id, id])),
            FromWorker::Call(Call::Record {
                kind: "checkpoints".into(),
                fact: serde_json::json!({"best": id}),
            }),
            FromWorker::Finished(Err(Error::integrity("it was altered").remedy("look"))),
        ];
        let wholes = calls.map(|call| {
            let mut bytes = Vec::new();
            send_with_secret(&mut bytes, &call, b"secret").expect("in memory");
            bytes
        });
        again_and_again(mutations, 11, &wholes, |_, mut damaged| {
            // As long as it lasts: what follows a message is the next one.
            loop {
                match receive::<FromWorker>(&mut damaged) {
                    Ok(Some(frame)) => assert!(frame.secret.len() <= SECRET_BYTES_MAX),
                    Ok(None) => break,
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::Integrity | Kind::Unavailable), "{error}");
                        break;
                    }
                }
            }
        });
    }
}
