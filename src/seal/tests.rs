//! Known answers, and sealed objects under attack.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use super::{header::TRAILER_BYTES, key::hkdf_sha256, *};
use crate::base::{
    Error, ErrorKind, Id, IdKind, Philox, Result,
    damage::{FIRST_TIER, again_and_again},
};

const CHUNK: u32 = 64;
const STRIDE: usize = CHUNK as usize + 28;

fn id(kind: IdKind, last: u8) -> Id {
    Id::from_parts(kind, 1_790_000_000_000, [last; 10])
}

fn label() -> Label {
    Label { install: id(IdKind::Install, 1), object: id(IdKind::Document, 2), version: 1 }
}

fn key(number: u8) -> Key {
    Key::from_bytes(&[number; 32]).expect("key")
}

/// `length` bytes that differ from place to place.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 % 256) as u8).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn seal_as(key: &Key, label: Label, chunk_bytes: u32, plain: &[u8]) -> Vec<u8> {
    let header = Header::seal(key, label, chunk_bytes, plain.len() as u64, false).expect("header");
    let mut writer = SealWriter::with_header(Vec::new(), key, header).expect("writer");
    writer.write_all(plain).expect("write");
    writer.finish().expect("finish").0
}

/// An object that carries `ciphertext`.
fn seal_carrying(plain: &[u8], ciphertext: &[&[u8]]) -> Vec<u8> {
    let length = (plain.len() + TRAILER_BYTES) as u64;
    let header = Header::seal(&key(9), label(), CHUNK, length, true).expect("header");
    let mut writer = SealWriter::with_header(Vec::new(), &key(9), header).expect("writer");
    ciphertext.iter().for_each(|piece| writer.carry(piece).expect("carry"));
    writer.write_all(plain).expect("write");
    writer.finish().expect("finish").0
}

fn seal(plain: &[u8]) -> Vec<u8> {
    seal_as(&key(9), label(), CHUNK, plain)
}

fn file_of(sealed: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(sealed).expect("write");
    file
}

fn open_as(key: &Key, label: Label, sealed: &[u8]) -> Result<Vec<u8>> {
    SealReader::open(file_of(sealed), key, label)?.read_all()
}

fn open(sealed: &[u8]) -> Result<Vec<u8>> {
    open_as(&key(9), label(), sealed)
}

/// That `sealed` is refused as damaged, in words that name the object.
fn refused(sealed: &[u8], what: impl std::fmt::Display) {
    match open(sealed) {
        Ok(_) => panic!("{what} was accepted"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error}");
            assert!(error.to_string().contains(&label().object.to_string()), "{what}: {error}");
        }
    }
}

// Known answers.

/// RFC 5869, appendix A.1 and A.3.
#[test]
fn hkdf_gives_the_published_answers() {
    let mut out = [0; 42];
    let (salt, info) = (hex("000102030405060708090a0b0c"), hex("f0f1f2f3f4f5f6f7f8f9"));
    hkdf_sha256(&salt, &[0x0b; 22], &[&info], &mut out).expect("hkdf");
    assert_eq!(
        out[..],
        hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    );
    hkdf_sha256(&[], &[0x0b; 22], &[], &mut out).expect("hkdf");
    assert_eq!(
        out[..],
        hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
    );
}

/// RFC 4231, cases 1 and 2. HMAC pads a short key with zeros, so that a padded one is the same key.
#[test]
fn hmac_gives_the_published_answers() {
    let padded = |short: &[u8]| {
        let mut key = [0; 32];
        key[..short.len()].copy_from_slice(short);
        Key::from_bytes(&key).expect("key")
    };
    let cases: [(&[u8], &[u8], _); 2] = [
        (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
    ];
    for (short, message, code) in cases {
        assert_eq!(hmac(&padded(short), message)[..], hex(code));
        assert!(verify_hmac(&padded(short), message, &hex(code)));
        assert!(!verify_hmac(&padded(short), message, &hex(code)[..31]));
        assert!(!verify_hmac(&key(1), message, &hex(code)));
    }
}

/// RFC 8032, section 7.1, tests 1 to 3.
#[test]
fn signatures_are_the_published_ones() {
    let cases = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
             387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659\
             4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, public, message, signature) in cases {
        let signer = Signer::new(Key::from_slice(&hex(seed)).expect("seed"));
        assert_eq!(signer.public_key().0[..], hex(public));
        let message = hex(message);
        assert_eq!(signer.sign(&message)[..], hex(signature));
        signer.public_key().verify(&message, &hex(signature)).expect("its own signature");
        let mut wrong = hex(signature);
        wrong[40] ^= 1;
        assert!(signer.public_key().verify(&message, &wrong).is_err());
        assert!(signer.public_key().verify(b"another message", &hex(signature)).is_err());
        assert!(signer.public_key().verify(&message, &hex(signature)[..63]).is_err());
    }
}

/// Made by tests/golden/sealed_object.py, which was written from the format's description alone.
#[test]
fn another_implementation_gives_the_same() {
    let key = Key::from_slice(&(0..32).collect::<Vec<u8>>()).expect("key");
    assert_eq!(open_as(&key, label(), &hex(GOLDEN)).expect("opens"), text(150));
    let derived = key.derive("some purpose", b"some context").expect("derive");
    derived.danger_expose(|bytes| {
        assert_eq!(bytes[..], hex("6bdbec9d521f8fcebcc9a8cb734ef1da3aa77ddb7dd521fe1b87ed698a2c262f"))
    });
    let passphrase = Secret::new(b"correct horse battery staple".to_vec());
    let salt: Vec<u8> = (0..16).collect();
    let stretched = PassphraseParams::RECOMMENDED
        .key(&passphrase, &salt.try_into().expect("16 bytes"))
        .expect("argon2id");
    stretched.danger_expose(|bytes| {
        assert_eq!(bytes[..], hex("853b272a44db1421c02962669a55eb0994f3cab385ed1c4c79253eee19bab49e"))
    });
}

const GOLDEN: &str = concat!(
    "434c4f49534f424a0100010040000000960000000000000001000000000000000001a0c4506c000101010101010101010101",
    "01a0c4506c0002020202020202020202bfef7bea586b96df3dd95d852a18c8a77ba4d8a207cee2c0df3f5651cd7df13fe02e",
    "22c70489671371697fe077cf582e3b43dbc94ac2337e72c68b1378c3dc3a0101010101010101010101019a0f01d74182a84a",
    "140a1266b9e58f3eb16a4850023a91bb421b288ebf3508cd965d1818523422a62175fdfa68bb81dc8be72c35d2132c8413b8",
    "c69bdaec6034298fb6562b29e64f2e745a988352009d02020202020202020202020221b17cb0e3ad516a701c1d8238f9f042",
    "869af4a6cf52bdbe591ade7695dbbc9f45faa4ea9e660806a5bd15952641164f0d280fae3e77e8ec376ad2b329d8c6577249",
    "0abfa5af3dc7ba216c9d1c1d9db90303030303030303030303030baa2278fb463b22ae2ebe84faf98eeafcda5fdda56b732e",
    "10fe792cf99292e571bba6f294f8",
);

// What was sealed comes back.

#[test]
fn every_length_around_a_chunk_comes_back() {
    for length in (0..=3 * CHUNK as usize + 2).chain([1000]) {
        let sealed = seal(&text(length));
        assert_eq!(sealed.len() as u64, sealed_length_bytes(length as u64, CHUNK));
        assert_eq!(open(&sealed).expect("opens"), text(length), "{length}");
    }
}

#[test]
fn any_range_is_the_range_of_the_plaintext() {
    let plain = text(3 * CHUNK as usize + 11);
    let reader = SealReader::open(file_of(&seal(&plain)), &key(9), label()).expect("open");
    for start in 0..=plain.len() {
        for end in start..=plain.len() {
            let mut out = vec![0xEE; end - start];
            reader.read_at(start as u64, &mut out).expect("within");
            assert_eq!(out, plain[start..end], "{start}..{end}");
        }
        let mut beyond = vec![0; plain.len() - start + 1];
        assert_eq!(reader.read_at(start as u64, &mut beyond).unwrap_err().kind(), ErrorKind::Usage);
    }
    assert_eq!(reader.read_at(u64::MAX, &mut [0; 2]).unwrap_err().kind(), ErrorKind::Usage);
}

/// Long enough that several threads seal and open it, written in uneven pieces.
#[test]
fn a_large_object_comes_back_whole_and_in_any_part() {
    let mut rng = Philox::new(11, 0);
    let plain: Vec<u8> = (0..(9 << 20) + 4321).map(|_| rng.next_u32() as u8).collect();
    let mut writer = SealWriter::new(Vec::new(), &key(9), label(), plain.len() as u64).expect("writer");
    let mut rest = &plain[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(1 + rng.below(700_000) as usize));
        writer.write_all(piece).expect("write");
        rest = after;
    }
    let (sealed, listed) = writer.finish().expect("finish");
    let reader = SealReader::open(file_of(&sealed), &key(9), label()).expect("open");
    assert_eq!((listed.header_hash, listed.length_bytes), (reader.header().hash, plain.len() as u64));
    assert!(reader.read_all().expect("whole") == plain);
    for _ in 0..50 {
        let start = rng.below(plain.len() as u64) as usize;
        let end = start + rng.below((plain.len() - start) as u64 + 1) as usize;
        let mut out = vec![0; end - start];
        reader.read_at(start as u64, &mut out).expect("part");
        assert!(out == plain[start..end], "{start}..{end}");
    }
}

// What was not, is refused.

#[test]
fn every_single_bit_counts() {
    let sealed = seal(&text(150));
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed, format!("bit {} of byte {}", bit % 8, bit / 8));
    }
    let empty = seal(b"");
    for bit in 0..empty.len() * 8 {
        let mut changed = empty.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed, format!("bit {bit} of an empty object"));
    }
}

#[test]
fn every_other_length_is_refused() {
    let sealed = seal(&text(150));
    for length in 0..sealed.len() {
        refused(&sealed[..length], format!("{length} of {} bytes", sealed.len()));
    }
    for more in [1, 16, 27, 28, 29, STRIDE - 1, STRIDE, STRIDE + 1] {
        let mut longer = sealed.clone();
        longer.resize(sealed.len() + more, 0);
        refused(&longer, format!("{more} bytes more"));
    }
    let mut twice = sealed.clone();
    twice.extend_from_slice(&sealed[sealed.len() - STRIDE..]);
    refused(&twice, "the last chunk twice");
}

#[test]
fn chunks_stay_where_they_were_sealed() {
    let sealed = seal(&text(4 * CHUNK as usize));
    let chunk = |number: usize| HEADER_BYTES + number * STRIDE..HEADER_BYTES + (number + 1) * STRIDE;
    for a in 0..4 {
        for b in (0..4).filter(|&b| b != a) {
            let mut copied = sealed.clone();
            copied.copy_within(chunk(a), chunk(b).start);
            refused(&copied, format!("chunk {a} over chunk {b}"));
            let mut swapped = sealed.clone();
            swapped[chunk(a)].copy_from_slice(&sealed[chunk(b)]);
            swapped[chunk(b)].copy_from_slice(&sealed[chunk(a)]);
            refused(&swapped, format!("chunks {a} and {b} swapped"));
        }
        let mut dropped = sealed.clone();
        dropped.drain(chunk(a));
        refused(&dropped, format!("chunk {a} dropped"));
    }
}

/// The same key, the same place, the same length: only the label in the header differs.
#[test]
fn chunks_of_another_object_or_version_are_refused() {
    let plain = text(3 * CHUNK as usize);
    let sealed = seal(&plain);
    let others = [
        Label { object: id(IdKind::Document, 3), ..label() },
        Label { object: id(IdKind::Shard, 2), ..label() },
        Label { version: 2, ..label() },
        Label { version: 0, ..label() },
        Label { install: id(IdKind::Install, 4), ..label() },
    ];
    for other in others {
        let theirs = seal_as(&key(9), other, CHUNK, &plain);
        refused(&theirs, format!("the whole of {other:?}"));
        for number in 0..3 {
            let chunk = HEADER_BYTES + number * STRIDE..HEADER_BYTES + (number + 1) * STRIDE;
            let mut mixed = sealed.clone();
            mixed[chunk.clone()].copy_from_slice(&theirs[chunk]);
            refused(&mixed, format!("chunk {number} of {other:?}"));
        }
        let mut beheaded = sealed.clone();
        beheaded[..HEADER_BYTES].copy_from_slice(&theirs[..HEADER_BYTES]);
        refused(&beheaded, format!("the header of {other:?}"));
    }
}

#[test]
fn refusals_say_which_attack_it_was() {
    let plain = text(150);
    let said = |sealed: &[u8]| open(sealed).unwrap_err().to_string();
    let swapped = Label { object: id(IdKind::Document, 3), ..label() };
    assert!(
        said(&seal_as(&key(9), swapped, CHUNK, &plain)).contains(&format!("holds object {}", swapped.object))
    );
    let older = Label { version: 0, ..label() };
    assert!(said(&seal_as(&key(9), older, CHUNK, &plain)).contains("rolled back to version 0 from 1"));
    let foreign = Label { install: id(IdKind::Install, 4), ..label() };
    assert!(said(&seal_as(&key(9), foreign, CHUNK, &plain)).contains("belongs to installation"));
    assert!(said(&seal_as(&key(8), label(), CHUNK, &plain)).contains("another key"));
    assert!(said(&seal(&plain)[..200]).contains("cut short by"));
    let mut changed = seal(&plain);
    changed[HEADER_BYTES + STRIDE + 20] ^= 1;
    assert!(said(&changed).contains("chunk 1 of 3"));
}

#[test]
fn nothing_of_a_bad_chunk_is_released() {
    let plain = vec![0x5A; 5 << 20];
    let mut sealed = seal_as(&key(9), label(), CHUNK_BYTES_DEFAULT, &plain);
    let at = sealed.len() / 2;
    sealed[at] ^= 0x80;
    let reader = SealReader::open(file_of(&sealed), &key(9), label()).expect("the header is good");
    for (start, length) in [(0, 5 << 20), (2 << 20, 1 << 20), ((2 << 20) + 400_000, 300_000)] {
        let mut out = vec![0xEE; length];
        let error = reader.read_at(start, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(out.iter().all(|&byte| byte == 0), "{start}: plaintext was left behind");
    }
}

#[test]
fn what_changes_after_opening_is_refused_too() {
    let sealed = seal(&text(150));
    let file = file_of(&sealed);
    let reader = SealReader::open(file.try_clone().expect("clone"), &key(9), label()).expect("open");
    file.write_all_at(&[sealed[200] ^ 1], 200).expect("change");
    assert!(reader.read_all().unwrap_err().to_string().contains("chunk 0"));
    file.set_len(220).expect("cut");
    let error = reader.read_at(64, &mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains("cut short"), "{error}");
}

/// A header that is authentic, and asks for what no object may have.
#[test]
fn a_header_cannot_ask_for_much_memory() {
    for chunk_bytes in [0, (16 << 20) + 1, u32::MAX] {
        let (_, header) = Header::seal(&key(9), label(), chunk_bytes, 10, false).expect("header");
        refused(&header, format!("chunks of {chunk_bytes} bytes"));
    }
    assert!(Header::seal(&key(9), label(), CHUNK, u64::MAX, false).is_err());
    let (_, header) = Header::seal(&key(9), label(), CHUNK, TRAILER_BYTES as u64 - 1, true).expect("header");
    refused(&header, "39 bytes in all");
}

// What an object carries.

#[test]
fn what_is_carried_comes_back_as_it_was_beside_the_content() {
    for length in [0, 1, CHUNK as usize - TRAILER_BYTES, CHUNK as usize - 1, CHUNK as usize, 150] {
        for carried in [0, 1, 1000] {
            let (plain, ciphertext) = (text(length), text(carried));
            let (begin, end) = ciphertext.split_at(carried / 3);
            let sealed = seal_carrying(&plain, &[begin, end]);
            let reader = SealReader::open(file_of(&sealed), &key(9), label()).expect("opens");
            assert_eq!((reader.len_bytes(), reader.carried_bytes()), (length as u64, carried as u64));
            assert_eq!(reader.read_all().expect("content"), plain, "{length}");
            let mut read = vec![0; carried - carried / 3];
            reader.read_carried_at(carried as u64 / 3, &mut read).expect("carried");
            assert_eq!(read, end);
            reader.verify_carried(&mut [0; 64]).expect("as it was written");
            let beyond = reader.read_carried_at(carried as u64, &mut [0]).unwrap_err();
            assert_eq!(beyond.kind(), ErrorKind::Usage);
            assert!(reader.read_at(length as u64, &mut [0]).is_err(), "the trailer is no content");
        }
    }
}

#[test]
fn every_bit_of_an_object_that_carries_counts() {
    let (plain, ciphertext) = (text(100), text(80));
    let sealed = seal_carrying(&plain, &[&ciphertext]);
    let whole = |bytes: &[u8]| {
        let reader = SealReader::open(file_of(bytes), &key(9), label())?;
        reader.verify_carried(&mut [0; 64])?;
        reader.read_all()
    };
    assert_eq!(whole(&sealed).expect("as it was"), plain);
    for bit in 0..8 * sealed.len() {
        let mut altered = sealed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(whole(&altered).expect_err("altered").kind(), ErrorKind::Integrity, "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert_eq!(whole(&sealed[..length]).expect_err("cut").kind(), ErrorKind::Integrity, "{length}");
    }
    // Taken out of what is carried, or put into it: no chunk is where it was.
    let middle = HEADER_BYTES + 40;
    refused(&[&sealed[..middle], &sealed[middle + 1..]].concat(), label().object);
    refused(&[&sealed[..middle], &[0], &sealed[middle..]].concat(), label().object);
}

#[test]
fn only_what_was_made_to_carries_and_before_its_content() {
    let mut plain = SealWriter::new(Vec::new(), &key(9), label(), 10).expect("writer");
    assert!(plain.carry(b"x").is_err());
    let mut carrying = SealWriter::carrying(Vec::new(), &key(9), label(), 10).expect("writer");
    carrying.write_all(b"01234").expect("write");
    assert!(carrying.carry(b"x").is_err());
    assert!(carrying.write_all(b"0123456").is_err(), "no room for the trailer is lent out");
}

// Writers that go wrong.

#[test]
fn an_object_has_exactly_the_announced_length() {
    let mut writer = SealWriter::new(Vec::new(), &key(9), label(), 10).expect("writer");
    writer.write_all(&[1; 9]).expect("nine");
    assert!(writer.finish().unwrap_err().to_string().contains("9 bytes were written, and 10 were announced"));
    let mut writer = SealWriter::new(Vec::new(), &key(9), label(), 10).expect("writer");
    let error = writer.write_all(&[1; 11]).unwrap_err();
    assert!(error.to_string().contains("more than the announced 10"), "{error}");
}

/// A sink that takes so many bytes and then is full.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_once_and_never_forgotten() {
    let length = 9 << 20;
    let mut writer = SealWriter::new(Full(6 << 20), &key(9), label(), length).expect("writer");
    let error = writer.write_all(&vec![1; length as usize]).unwrap_err();
    let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("our error");
    assert_eq!(ours.kind(), ErrorKind::Unavailable);
    assert!(ours.remedy_text().is_some());
    assert!(writer.write_all(&[1]).is_err());
    assert!(writer.finish().is_err());
}

// Small values.

#[test]
fn a_sealed_value_opens_only_as_it_was_and_where_it_was() {
    let blob = seal_blob(&key(1), b"docs|7|title|1", b"a title").expect("seal");
    assert_eq!(blob.len(), 7 + BLOB_OVERHEAD_BYTES);
    assert_eq!(open_blob(&key(1), b"docs|7|title|1", &blob).expect("open"), b"a title");
    let broken = |key: &Key, aad: &[u8], blob: &[u8]| {
        assert_eq!(open_blob(key, aad, blob).unwrap_err().kind(), ErrorKind::Integrity);
    };
    broken(&key(2), b"docs|7|title|1", &blob);
    broken(&key(1), b"docs|8|title|1", &blob);
    broken(&key(1), b"", &blob);
    for length in 0..blob.len() {
        broken(&key(1), b"docs|7|title|1", &blob[..length]);
    }
    for bit in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        broken(&key(1), b"docs|7|title|1", &changed);
    }
    let again = seal_blob(&key(1), b"docs|7|title|1", b"a title").expect("seal");
    assert_ne!(blob, again, "a nonce was used twice");
}

#[test]
fn derived_keys_differ_by_purpose_and_context() {
    let root = key(3);
    let pairs: [(&str, &[u8]); 5] = [("a", b"bc"), ("ab", b"c"), ("abc", b""), ("a", b"bd"), ("", b"abc")];
    let derived: std::collections::BTreeSet<[u8; 32]> = pairs
        .iter()
        .map(|(purpose, context)| {
            root.derive(purpose, context).expect("derive").danger_expose(|bytes| *bytes)
        })
        .collect();
    assert_eq!(derived.len(), pairs.len());
    assert!(root.derive(&"x".repeat(256), b"").is_err());
}

#[test]
fn secrets_do_not_print() {
    let shown = format!("{:?} {:?}", key(0xAB), Secret::new(b"hunter2".to_vec()));
    assert!(!shown.contains("ab") && !shown.contains("171") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn argon2id_refuses_what_is_out_of_reason() {
    let secret = Secret::new(b"passphrase".to_vec());
    let asked = |memory_kib, passes, lanes| {
        let params = PassphraseParams { memory_kib, passes, lanes };
        params.key(&secret, &[0; 16]).map(drop).map_err(|error| error.kind())
    };
    for (memory_kib, passes, lanes) in
        [(u32::MAX, 3, 4), (64, u32::MAX, 1), (64, 3, u32::MAX), (0, 3, 1), (64, 0, 1)]
    {
        assert_eq!(asked(memory_kib, passes, lanes), Err(ErrorKind::Integrity));
    }
    assert_eq!(asked(64, 1, 1), Ok(()));
}

#[test]
fn comparing_is_by_every_byte_and_length() {
    assert!(same_bytes(b"", b"") && same_bytes(b"abc", b"abc"));
    for (a, b) in [("abc", "abd"), ("abc", "ab"), ("abc", "Abc"), ("", "a")] {
        assert!(!same_bytes(a.as_bytes(), b.as_bytes()), "{a} {b}");
    }
}

#[test]
fn new_identifiers_do_not_repeat() {
    let ids: std::collections::HashSet<Id> =
        (0..10_000).map(|_| new_id(IdKind::Job).expect("randomness")).collect();
    assert_eq!(ids.len(), 10_000);
}

/// Of sealed objects of every shape, in the long tier.
const MUTATIONS: u64 = 250_000;

#[test]
fn random_damage_is_refused() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn random_damage_is_always_refused() {
    withstands_damage(MUTATIONS);
}

fn withstands_damage(mutations: u64) {
    let wholes: Vec<Vec<u8>> = (0..400).step_by(9).map(|length| seal(&text(length))).collect();
    again_and_again(mutations, 2, &wholes, |whole, damaged| {
        if damaged != whole {
            refused(damaged, "damaged at random");
        }
    });
}
