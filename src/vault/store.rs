//! The vault: open it with the root key, and it is a [`Depot`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use super::{
    Depot, ObjectReader, ObjectWriter, Purpose, ReadGrant, RootKey, Swept, UnsealedBy, Unsealer, VaultRoot,
    WriteGrant,
    commit::{Commit, Step, sync_directories_of},
    copy::Held,
    grant::extent_key,
    keyring::{Change, Claim, Entry, Keyring, Wrapped, unwrap, wrap},
    object::{self, TEMPORARY_SUFFIX},
    ring_file::RingFile,
    sweep::sweep,
};
use crate::{
    base::{
        Context, Error, Id, IdKind, Result,
        fs::{create_private_dir, remove_temporaries, sync_parent},
        group::Group,
    },
    seal::{Key, Label, SealReader, Signer, new_id},
};

pub(super) const ROOT_FILE: &str = "root.json";
pub(super) const RING_FILE: &str = "keyring";

/// What identifiers are written in: objects lie in a directory for each two of these.
const FAN_LETTERS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// All sealed objects of one installation and the keys to them.
pub struct Vault {
    pub(super) root: RwLock<RootKey>,
    install: Id,
    keys_dir: PathBuf,
    objects: PathBuf,
    /// Wrap the objects' keys: the newest new ones, the older what they once wrapped.
    pub(super) objects_keys: RwLock<BTreeMap<u32, Key>>,
    pub(super) ring: RwLock<Keyring>,
    pub(super) file: Mutex<RingFile>,
    pub(super) group: Group<Commit, ()>,
    /// Held while a key is replaced by another.
    pub(super) rotating: Mutex<()>,
    /// Objects that workers are writing: what the keyring will say of them.
    granted: Mutex<HashMap<Id, Claim>>,
    /// Objects that are being deleted: already out of reach, and not yet out of the keyring.
    leaving: Mutex<HashSet<Id>>,
    pub(super) held: Mutex<Held>,
    swept: Swept,
}

impl Vault {
    /// Whether a vault was made in this data directory.
    pub fn exists(data_dir: &Path) -> bool {
        root_path(data_dir).exists()
    }

    /// Makes a new vault, whose root key `unsealer` will open, and opens it.
    ///
    /// # Errors
    /// `Usage` when there is one already, or keys or objects of one.
    pub fn init(data_dir: &Path, unsealer: &Unsealer) -> Result<Self> {
        let taken = |what: &str| {
            Error::usage(format!("{} already holds {what}", data_dir.display()))
                .remedy("use it as it is, or name another place with --data-dir")
        };
        if Self::exists(data_dir) {
            return Err(taken("an installation"));
        }
        let objects = data_dir.join("objects");
        if objects.exists() && !super::sweep::files(&objects)?.is_empty() {
            return Err(taken("sealed objects, and no root key that would open them"));
        }
        for directory in [&data_dir.join("keys"), &objects] {
            create_private_dir(directory)?;
            sync_parent(directory)?;
        }
        // Now, and not one by one as objects come: each would cost the first of them a sync.
        for first in FAN_LETTERS.chars() {
            for second in FAN_LETTERS.chars() {
                create_private_dir(&objects.join(String::from_iter([first, second])))?;
            }
        }
        sync_parent(&objects.join("any"))?;
        let root = RootKey::generate()?;
        let mut ring = Keyring { epoch: 1, ..Keyring::default() };
        for purpose in Purpose::ALL {
            let wrapped = wrap_purpose(&root, purpose, 1, &Key::generate()?)?;
            ring.purposes.insert((purpose, 1), wrapped);
        }
        RingFile::rewrite(&ring_path(data_dir), &root, &ring)?;
        // The root file comes last: with it the vault exists, and without it nothing does.
        root.store(&root_path(data_dir), std::slice::from_ref(unsealer))?;
        Self::open(data_dir, root)
    }

    /// Opens the root key of the vault in `data_dir`; see [`RootKey::unseal`].
    pub fn unseal(data_dir: &Path, unsealer: Option<&Unsealer>) -> Result<RootKey> {
        RootKey::unseal(&root_path(data_dir), unsealer)
    }

    /// Why what `unsealer` names, or the key file that is remembered, cannot be read here; None where it can.
    pub fn out_of_reach(data_dir: &Path, unsealer: Option<&Unsealer>) -> Result<Option<Error>> {
        RootKey::out_of_reach(&root_path(data_dir), unsealer)
    }

    /// What unseals the vault in `data_dir`, in the order in which it was named.
    pub fn unsealed_by(data_dir: &Path) -> Result<Vec<UnsealedBy>> {
        RootKey::unsealed_by(&root_path(data_dir))
    }

    /// Opens the vault and puts in order what a crash left. The caller holds the data directory's lock.
    pub fn open(data_dir: &Path, root: RootKey) -> Result<Self> {
        let objects = data_dir.join("objects");
        RingFile::finish_rekey(&ring_path(data_dir), &root)?;
        let (file, ring, keyring_bytes_cut) = RingFile::open(&ring_path(data_dir), &root)?;
        create_private_dir(&objects)?;
        remove_temporaries(&data_dir.join("keys"))?;
        let swept = Swept { keyring_bytes_cut, ..sweep(&objects, &ring)? };
        let objects_keys: BTreeMap<u32, Key> = keys_of(&root, &ring, Purpose::Objects)?.into_iter().collect();
        if objects_keys.is_empty() {
            return Err(Error::integrity("the keyring has no key for objects"));
        }
        Ok(Self {
            install: root.install(),
            root: RwLock::new(root),
            keys_dir: data_dir.join("keys"),
            objects,
            objects_keys: RwLock::new(objects_keys),
            ring: RwLock::new(ring),
            file: Mutex::new(file),
            group: Group::default(),
            rotating: Mutex::default(),
            granted: Mutex::default(),
            leaving: Mutex::default(),
            held: Mutex::default(),
            swept,
        })
    }

    pub fn install(&self) -> Id {
        self.install
    }

    /// What opening the vault put in order.
    pub fn swept(&self) -> Swept {
        self.swept
    }

    /// The newest key for a purpose.
    pub fn purpose_key(&self, purpose: Purpose) -> Result<Key> {
        let newest = self.purpose_keys(purpose)?.into_iter().next();
        newest.ok_or_else(|| Error::integrity(format!("the keyring has no key for {purpose:?}")))
    }

    /// Every version of the key for a purpose, newest first.
    pub fn purpose_keys(&self, purpose: Purpose) -> Result<Vec<Key>> {
        // The ring's lock first, as in a rekey.
        let ring = self.ring();
        Ok(keys_of(&self.root_key(), &ring, purpose)?.into_iter().rev().map(|(_, key)| key).collect())
    }

    /// A signer whose seed is the newest key for `purpose`.
    pub fn signer(&self, purpose: Purpose) -> Result<Signer> {
        self.purpose_key(purpose).map(Signer::new)
    }

    /// The vault in 32 bytes, and how many commits it has seen.
    pub fn root(&self) -> VaultRoot {
        self.ring().root(self.install())
    }

    pub fn contains(&self, id: Id) -> bool {
        self.ring().objects.contains_key(&id)
    }

    /// Every live object, in order.
    pub fn objects(&self) -> Vec<Id> {
        self.ring().objects.keys().copied().collect()
    }

    /// Leave for a worker to read one object.
    pub fn grant(&self, id: Id) -> Result<ReadGrant> {
        let (entry, key) = self.entry(id)?;
        let label = Label { install: self.install(), object: id, version: entry.version };
        Ok(ReadGrant::new(label, self.path(id), entry.length_bytes, entry.header_hash, key))
    }

    /// Leave for a worker to write a new object; [`Vault::adopt`] takes it in when it is written.
    pub fn reserve(&self, kind: IdKind, length_bytes: u64) -> Result<WriteGrant> {
        let (grant, claim) = self.prepare(kind, length_bytes)?;
        self.granted().insert(grant.id(), claim);
        Ok(grant)
    }

    /// Takes in an object that was written and synced under a grant.
    pub fn adopt(&self, id: Id) -> Result<Id> {
        self.adopt_all(&[id])?;
        Ok(id)
    }

    /// Takes in several, all or none.
    pub fn adopt_all(&self, ids: &[Id]) -> Result<()> {
        let claim = |&id: &Id| {
            let claim = self.granted().get(&id).copied();
            let missing = || Error::failed(format!("object {id} was not granted, or is committed already"));
            claim.map(|claim| (id, claim)).ok_or_else(missing)
        };
        let claims = ids.iter().map(claim).collect::<Result<Vec<_>>>()?;
        self.take_in(&claims)?;
        let mut granted = self.granted();
        for id in ids {
            granted.remove(id);
        }
        Ok(())
    }

    /// Gives up an object that was granted and will not be written.
    pub fn abandon(&self, id: Id) -> Result<()> {
        if self.granted().remove(&id).is_none() {
            return Ok(());
        }
        Step::Remove(temporary(&self.path(id))).run()
    }

    /// Deletes objects so that their keys are gone: the keyring is rewritten whole, without them and under a
    /// new key. What an old copy of the keyring (a backup, an SSD's spare blocks) still holds is beyond reach.
    /// One that is not there any more is passed over, so that an erasure that was cut off is finished by another.
    pub fn erase(&self, ids: &[Id]) -> Result<()> {
        let here: Vec<Id> = ids.iter().copied().filter(|&id| self.contains(id)).collect();
        if !here.is_empty() {
            self.delete_all(&here)?;
        }
        self.rewrite_keyring()
    }

    /// Deletes several objects at the price of one, all or none.
    pub fn delete_all(&self, ids: &[Id]) -> Result<()> {
        let mut leaving = self.leaving();
        if let Some(&id) = ids.iter().find(|&id| leaving.contains(id) || !self.contains(*id)) {
            return Err(not_found(id));
        }
        leaving.extend(ids);
        drop(leaving);
        let deleted = self.delete_listed(ids);
        let mut leaving = self.leaving();
        for id in ids {
            leaving.remove(id);
        }
        deleted
    }

    fn delete_listed(&self, ids: &[Id]) -> Result<()> {
        let mut commit = Commit::default();
        let (mut paths, mut removed) = (Vec::new(), Vec::new());
        for &id in ids {
            let path = self.path(id);
            // Out of its place first: were it deleted last and the machine stopped before, an unlisted file
            // would stand there, and nobody could tell it from one that was put there.
            match Step::Rename(path.clone(), temporary(&path)).run() {
                Ok(()) => commit.undo.push(Step::Rename(temporary(&path), path.clone())),
                Err(error) if path.exists() => return Err(commit.take_back(error)),
                // One that is lost already is deleted all the more.
                Err(_) => {}
            }
            commit.changes.push(Change::Remove(id));
            removed.push(temporary(&path));
            paths.push(path);
        }
        if let Err(error) = sync_directories_of(paths.iter().map(PathBuf::as_path)) {
            return Err(commit.take_back(error));
        }
        self.change(commit)?;
        self.remove_unless_held(removed)
    }

    pub(super) fn entry(&self, id: Id) -> Result<(Entry, Key)> {
        if self.leaving().contains(&id) {
            return Err(not_found(id));
        }
        let entry = *self.ring().objects.get(&id).ok_or_else(|| not_found(id))?;
        let key = self
            .unwrap_object(id, entry.under, &entry.wrapped_key)
            .map_err(|error| error.context(format!("opening the key of object {id}")))?;
        Ok((entry, key))
    }

    pub(super) fn wrap_object(&self, id: Id, key: &Key) -> Result<(u32, Wrapped)> {
        let keys = self.objects_keys();
        let (&under, newest) = keys.last_key_value().expect("opened with one, and none is ever dropped");
        Ok((under, wrap(newest, &object_aad(self.install(), id), key)?))
    }

    pub(super) fn unwrap_object(&self, id: Id, under: u32, wrapped: &Wrapped) -> Result<Key> {
        let keys = self.objects_keys();
        let key = keys.get(&under).ok_or_else(|| {
            Error::integrity(format!("the keyring has no version {under} of the key for objects"))
        })?;
        unwrap(key, &object_aad(self.install(), id), wrapped)
    }

    pub(super) fn path(&self, id: Id) -> PathBuf {
        object_path(&self.objects, id)
    }

    pub(super) fn objects_dir(&self) -> &Path {
        &self.objects
    }

    /// A new object's name, key and place.
    fn prepare(&self, kind: IdKind, length_bytes: u64) -> Result<(WriteGrant, Claim)> {
        let id = new_id(kind)?;
        let key = Key::generate()?;
        let (under, wrapped_key) = self.wrap_object(id, &key)?;
        let path = self.path(id);
        let directory = path.parent().expect("objects lie in a directory");
        if !directory.exists() {
            create_private_dir(directory)?;
            sync_parent(directory)?;
        }
        let label = Label { install: self.install(), object: id, version: 1 };
        let grant = WriteGrant::new(label, temporary(&path), length_bytes, [0; 32], key);
        Ok((grant, Claim { version: 1, length_bytes, under, wrapped_key }))
    }

    /// Lists objects whose temporary files are whole and synced.
    fn take_in(&self, claims: &[(Id, Claim)]) -> Result<()> {
        let mut commit = Commit::default();
        for &(id, claim) in claims {
            let path = self.path(id);
            commit.changes.push(Change::Put(id, self.written_entry(id, claim)?));
            commit.then.push(Step::Rename(temporary(&path), path));
        }
        self.change(commit)
    }

    /// Checks that the temporary file is what was granted and says what the keyring is to list.
    fn written_entry(&self, id: Id, claim: Claim) -> Result<Entry> {
        let Claim { version, length_bytes, under, wrapped_key } = claim;
        let key = self.unwrap_object(id, under, &wrapped_key)?;
        let path = temporary(&self.path(id));
        let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let written = SealReader::open(file, &key, Label { install: self.install(), object: id, version })?;
        if written.len_bytes() != length_bytes {
            return Err(Error::integrity(format!(
                "object {id} has {} bytes, and {length_bytes} were granted",
                written.len_bytes()
            )));
        }
        Ok(Entry { version, length_bytes, header_hash: written.header().hash, under, wrapped_key })
    }

    pub(super) fn keys_dir(&self) -> &Path {
        &self.keys_dir
    }

    pub(super) fn root_key(&self) -> RwLockReadGuard<'_, RootKey> {
        self.root.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn objects_keys(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Key>> {
        self.objects_keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ring(&self) -> RwLockReadGuard<'_, Keyring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<Id, Claim>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Depot for Vault {
    fn open(&self, id: Id) -> Result<ObjectReader> {
        let (entry, key) = self.entry(id)?;
        let label = Label { install: self.install(), object: id, version: entry.version };
        ObjectReader::open_file(&self.path(id), &key, label, &entry.header_hash)
    }

    fn create(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter> {
        let (grant, claim) = self.prepare(kind, length_bytes)?;
        Ok(grant.create()?.with_claim(claim))
    }

    fn create_carrying(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter> {
        let (grant, claim) = self.prepare(kind, length_bytes)?;
        Ok(grant.create_carrying()?.with_claim(claim))
    }

    fn commit(&self, written: ObjectWriter) -> Result<Id> {
        let id = written.id();
        self.commit_all(vec![written])?;
        Ok(id)
    }

    fn commit_all(&self, written: Vec<ObjectWriter>) -> Result<Vec<Id>> {
        let (mut claims, mut closed) = (Vec::new(), Vec::new());
        for mut object in written {
            let id = object.id();
            let foreign = || Error::failed(format!("object {id} was not begun in this vault"));
            claims.push((id, object.take_claim().ok_or_else(foreign)?));
            closed.push(object.close()?);
        }
        object::sync_all(closed)?;
        self.take_in(&claims)?;
        Ok(claims.into_iter().map(|(id, _)| id).collect())
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.delete_all(&[id])
    }

    fn extent_key(&self, document: Id) -> Result<Key> {
        let (_, key) = self.entry(document)?;
        extent_key(&key, document)
    }
}

/// `objects/<last two letters>/<id>`: the first letters of an identifier are its time, and would put all in one.
pub fn object_path(objects: &Path, id: Id) -> PathBuf {
    let name = id.to_string();
    let fan = &name[name.len() - 2..];
    objects.join(fan).join(&name)
}

pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

fn root_path(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join(ROOT_FILE)
}

fn ring_path(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join(RING_FILE)
}

fn not_found(id: Id) -> Error {
    Error::not_found(format!("there is no object {id}"))
}

fn object_aad(install: Id, id: Id) -> [u8; 34] {
    let mut aad = [0; 34];
    aad[..17].copy_from_slice(&install.to_bytes());
    aad[17..].copy_from_slice(&id.to_bytes());
    aad
}

fn purpose_aad(root: &RootKey, purpose: Purpose, version: u32) -> Vec<u8> {
    let version = version.to_le_bytes();
    [&b"cloister purpose"[..], &root.install().to_bytes(), &[purpose as u8], &version].concat()
}

pub(super) fn wrap_purpose(root: &RootKey, purpose: Purpose, version: u32, key: &Key) -> Result<Wrapped> {
    wrap(&root.key().derive("purpose keys", b"")?, &purpose_aad(root, purpose, version), key)
}

/// Every version of the key for `purpose`, oldest first.
pub(super) fn keys_of(root: &RootKey, ring: &Keyring, purpose: Purpose) -> Result<Vec<(u32, Key)>> {
    let above = root.key().derive("purpose keys", b"")?;
    let open = |(version, wrapped): (u32, &Wrapped)| {
        let key = unwrap(&above, &purpose_aad(root, purpose, version), wrapped);
        Ok((version, key.map_err(|error| error.context(format!("opening the key for {purpose:?}")))?))
    };
    ring.versions(purpose).map(open).collect()
}
