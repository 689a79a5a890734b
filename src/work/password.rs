//! Passwords of people: which are taken, after NIST SP 800-63B. Length counts, and that nobody would try it first; there
//! are no rules of composition, and none expires. A password lies in memory that is wiped and is shown nowhere.

use unicode_normalization::UnicodeNormalization;

use crate::{
    base::{Error, Result},
    seal::{PasswordVerifier, Secret, WipedVec},
};

const CHARACTERS_MIN: usize = 12;
const BYTES_MAX: usize = 256;

/// The commonest that are long enough, in lower case. One letter over and over needs no list.
const COMMON: &[&str] = &[
    "0123456789ab",
    "012345678910",
    "1234567890-=",
    "123123123123",
    "123456123456",
    "123456789012",
    "1234567890123",
    "1234567890123456",
    "12345678901234567890",
    "123456789abc",
    "123456789123",
    "1234567891011",
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u8i",
    "1qaz2wsx3edc",
    "1qaz2wsx3edc4rfv",
    "abc123abc123",
    "abcdefghijkl",
    "abcdefghijklmnopqrstuvwxyz",
    "admin1234567",
    "adminadminadmin",
    "administrator",
    "administrator1",
    "changeme1234",
    "changemechangeme",
    "cloistercloister",
    "correct horse battery staple",
    "correcthorsebatterystaple",
    "iloveyou1234",
    "letmeinletmein",
    "p@ssw0rd1234",
    "passw0rd1234",
    "password1234",
    "password12345",
    "password123456",
    "password123!",
    "passwordpassword",
    "qazwsxedcrfv",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiop[]",
    "qwertyuiopasdfghjkl",
    "qwertyuiopasdfghjklzxcvbnm",
    "thequickbrownfox",
    "trustno1trustno1",
    "welcome12345",
    "welcome123456",
    "zaq12wsxcde3",
];

/// A password as it is compared: in Unicode's NFKC, so that two keyboards that write one letter differently agree.
#[derive(Debug)]
pub struct Password(Secret);

impl Password {
    /// # Errors
    /// `Usage` where it is no text, or longer than any password is.
    pub fn read(typed: &Secret) -> Result<Self> {
        let text = std::str::from_utf8(typed.danger_expose())
            .map_err(|_| Error::usage("a password is text, and this is no UTF-8"))?;
        let (mut bytes, mut length) = (WipedVec::zeroed(BYTES_MAX), 0);
        for letter in text.nfkc() {
            let end = length + letter.len_utf8();
            let place = bytes
                .get_mut(length..end)
                .ok_or_else(|| Error::usage(format!("a password has at most {BYTES_MAX} bytes")))?;
            letter.encode_utf8(place);
            length = end;
        }
        Ok(Self(Secret::new(bytes[..length].to_vec())))
    }

    /// What stands in for one that no user can have.
    pub fn of_nobody() -> Self {
        Self(Secret::new(Vec::new()))
    }

    /// Whether the user of this name may have it from now on.
    ///
    /// # Errors
    /// `Usage`, saying why not and nothing of the password.
    pub fn must_be_good_for(&self, name: &str) -> Result<()> {
        let text = std::str::from_utf8(self.0.danger_expose()).unwrap_or_default();
        let refused = |why: String| {
            Err(Error::usage(why).remedy("several words in a row are long and easily kept in mind"))
        };
        if text.chars().count() < CHARACTERS_MIN {
            return refused(format!("a password has at least {CHARACTERS_MIN} characters"));
        }
        if same_letters(text, name) {
            return refused("a password is not the user's name".to_owned());
        }
        let first = text.chars().next();
        let is_one_letter = text.chars().all(|letter| Some(letter) == first);
        if is_one_letter || COMMON.iter().any(|common| same_letters(text, common)) {
            return refused("this password is among the first that anybody would try".to_owned());
        }
        Ok(())
    }

    pub fn is(&self, other: &Self) -> bool {
        self.0.danger_expose() == other.0.danger_expose()
    }

    pub fn verifier(&self) -> Result<PasswordVerifier> {
        PasswordVerifier::new(&self.0)
    }

    /// Takes a tenth of a second, and is meant to.
    pub fn opens(&self, verifier: &PasswordVerifier) -> Result<bool> {
        verifier.accepts(&self.0)
    }
}

/// Without a copy of either.
fn same_letters(a: &str, b: &str) -> bool {
    a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Password> {
        Password::read(&Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn length_counts_and_what_anybody_would_try_first_is_refused() {
        let refused =
            |text: &str| read(text).and_then(|password| password.must_be_good_for("Ermentrude Weiß"));
        for bad in ["", "elevenchars", "ermentrude weiß", "ZZZZZZZZZZZZ", "Password1234", "üüüüüüüüüü"]
        {
            let error = refused(bad).expect_err(bad);
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
        for good in ["twelve chars", "aaaaaaaaaaab", "ü über äpfel ö", &"long word ".repeat(25)] {
            refused(good).expect(good);
        }
        assert!(refused(&"x y".repeat(86)).is_err(), "258 bytes");
        assert!(Password::read(&Secret::new(vec![0xFF; 12])).is_err());
    }

    #[test]
    fn what_is_on_the_list_would_be_taken_otherwise() {
        for common in COMMON {
            assert!(common.chars().count() >= CHARACTERS_MIN, "{common}");
            assert_eq!(common.to_lowercase(), *common);
        }
    }

    #[test]
    fn one_letter_written_in_two_ways_is_one_letter() {
        let verifier = read("caf\u{e9} au lait, s'il vous").unwrap().verifier().unwrap();
        assert!(read("cafe\u{301} au lait, s'il vous").unwrap().opens(&verifier).unwrap());
        assert!(!read("cafe au lait, s'il vous").unwrap().opens(&verifier).unwrap());
    }
}
