//! The files that people keep secrets in: key files, which are made here, and files whose first line is a passphrase
//! or a share. What is read is wiped when it goes, and no error repeats any of it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64ct::{Base64, Encoding};

use crate::{
    base::{Context, Error, Id, Result},
    seal::{Key, Secret, WipedVec, random_bytes, wipe},
};

const KEY_FILE_MARK: &str = "CLOISTER-KEY-1:";
/// A file of any other kind serves as a key file too, if it can hold a key's worth of randomness.
const KEY_FILE_BYTES_MIN: usize = 32;
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
const LINE_BYTES_MAX: u64 = 4 << 10;

/// Makes a key file that says what it is and whose.
pub(super) fn make_key_file(path: &Path, install: Id) -> Result<()> {
    let mut random = random_bytes::<32>()?;
    let mut key = WipedVec::zeroed(64);
    let text = Base64::encode(&random, &mut key).map_err(|_| Error::failed("encoding a key"))?;
    let head = format!(
        "# Cloister key file. Whoever has it and the data directory can read everything in it.\n\
         # Keep it apart from the data directory and its backups, and keep a second copy of it safe.\n\
         # installation: {install}\n{KEY_FILE_MARK}"
    );
    // In one write of less than a sector, for `is_unfinished`.
    let content = WipedVec::from([head.as_bytes(), text.as_bytes(), b"\n"].concat());
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).create_new(!path.exists()).mode(0o600);
        let mut file = options.open(path)?;
        file.write_all(&content)?;
        file.sync_all()
    };
    let written = write().with_context(|| format!("making the key file {}", path.display()));
    wipe(&mut random);
    written.and_then(|()| crate::base::fs::sync_parent(path))
}

/// Whether a key file was being made when the power went: it has no byte yet, or zeros where they should be.
pub(super) fn is_unfinished(path: &Path) -> Result<bool> {
    Ok(read_key_file(path)?.danger_expose().iter().all(|&byte| byte == 0))
}

/// What a key file holds, as it is.
///
/// # Errors
/// `Sealed` where it is not there.
pub fn read_key_file(path: &Path) -> Result<Secret> {
    read(path, "key file", KEY_FILE_BYTES_MAX)
}

/// The key in the bytes of a key file, which errors call `named`.
pub(super) fn key_of(bytes: &Secret, named: &str) -> Result<Key> {
    let bytes = bytes.danger_expose();
    let marked = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.trim().strip_prefix(KEY_FILE_MARK)));
    if let Some(text) = marked {
        let mut key = [0; 32];
        let decoded = Base64::decode(text, &mut key).map(<[u8]>::len);
        let made = match decoded {
            Ok(32) => Key::from_bytes(&key),
            _ => Err(Error::sealed(format!("{named} is damaged"))),
        };
        wipe(&mut key);
        return made;
    }
    if bytes.len() < KEY_FILE_BYTES_MIN {
        return Err(Error::usage(format!(
            "{named} has {} bytes: too few for a key file, which needs {KEY_FILE_BYTES_MIN} random ones",
            bytes.len()
        ))
        .remedy("name a file that does not exist yet, and `cloister init` makes it"));
    }
    // A file that something else made, a hardware token's for one: its bytes are the secret, whole.
    let mut digest = crate::seal::sha256(bytes);
    let key = Key::from_bytes(&digest)?.derive("foreign key file", b"");
    wipe(&mut digest);
    key
}

/// The installation that a key file of ours says it was made for.
pub(super) fn install_of(bytes: &Secret) -> Option<Id> {
    let text = std::str::from_utf8(bytes.danger_expose()).ok()?;
    text.lines().find_map(|line| line.strip_prefix("# installation: ")?.trim().parse().ok())
}

/// The first line of a file, without its line end. Errors call the file a `what`.
///
/// # Errors
/// `Sealed` where it is not there.
pub fn read_line(path: &Path, what: &str) -> Result<Secret> {
    let bytes = read(path, what, LINE_BYTES_MAX)?;
    let line = bytes.danger_expose().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Secret::new(line.to_vec()))
}

fn read(path: &Path, what: &str, bytes_max: u64) -> Result<Secret> {
    let named = || format!("reading the {what} {}", path.display());
    let sealed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::sealed(format!("the {what} {} is not there", path.display()))
            .remedy("bring it back (mount the medium it lies on), or set CLOISTER_KEY_FILE to its place"),
        _ => super::object::cause(error).context(named()),
    };
    let file = fs::File::open(path).map_err(sealed)?;
    let mut bytes = Vec::with_capacity(bytes_max as usize + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes).with_context(named)?;
    let bytes = Secret::new(bytes);
    if bytes.len() as u64 > bytes_max {
        return Err(Error::usage(format!(
            "{} is longer than {bytes_max} bytes: it is no {what}",
            path.display()
        )));
    }
    Ok(bytes)
}
