//! What somebody says about an answer, checked before it is kept: an opinion that says nothing, or a book in
//! place of a correction, is refused.

use serde::Deserialize;

use crate::base::{Error, Id, IdKind, Result};

/// A correction longer than the longest answer is no correction.
pub const TEXT_BYTES_MAX: usize = 256 << 10;

/// An opinion about one answer; at least one of its parts is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opinion {
    pub answer: Id,
    /// 1 good, -1 bad, 0 neither.
    #[serde(default)]
    pub rating: Option<i64>,
    /// What the answer should have been.
    #[serde(default)]
    pub correction: Option<String>,
    #[serde(default)]
    pub comment: Option<String>,
}

impl Opinion {
    /// # Errors
    /// Usage, naming what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.answer.kind() != IdKind::Answer {
            return Err(Error::usage(format!("{} is not an answer's identifier", self.answer)));
        }
        if self.rating.is_some_and(|rating| !(-1..=1).contains(&rating)) {
            return Err(Error::usage("rating must be 1 (good), -1 (bad) or 0"));
        }
        for (name, text) in [("correction", &self.correction), ("comment", &self.comment)] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
                return Err(Error::usage(format!("{name} is longer than {TEXT_BYTES_MAX} bytes")));
            }
        }
        if self.rating.is_none() && self.correction.is_none() && self.comment.is_none() {
            return Err(Error::usage("say something: a rating, a correction or a comment"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opinion_says_something_about_an_answer() {
        let answer = Id::from_parts(IdKind::Answer, 1, [1; 10]);
        let read = |rest: &str| {
            serde_json::from_str::<Opinion>(&format!("{{\"answer\": \"{answer}\"{rest}}}"))
                .map_err(|error| Error::usage(error.to_string()))
                .and_then(|opinion| opinion.check())
        };
        for good in [", \"rating\": 1", ", \"rating\": -1, \"comment\": null", ", \"correction\": \"x\""] {
            assert_eq!(read(good), Ok(()), "{good}");
        }
        let long = format!(", \"comment\": \"{}\"", "x".repeat(TEXT_BYTES_MAX + 1));
        for bad in
            ["", ", \"rating\": 2", ", \"rating\": 0.5", ", \"rating\": \"1\"", ", \"stars\": 1", &long]
        {
            assert!(read(bad).is_err(), "{:.40}", bad);
        }
        let document = Id::from_parts(IdKind::Document, 1, [1; 10]);
        let opinion = Opinion { answer: document, rating: Some(1), correction: None, comment: None };
        assert!(opinion.check().is_err());
    }
}
