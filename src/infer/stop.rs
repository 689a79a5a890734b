//! Stop strings: text is let through only once it can no longer be the beginning of one, so a stop string is
//! never emitted, not in part either, however tokens cut it.

/// Watches one answer's text.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that may yet turn out to begin a stop string.
    held: String,
}

/// What a piece of text lets through.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    /// Emit this and go on.
    Text(String),
    /// A stop string came up: emit this, which stands before it, and end.
    Stopped(String),
}

impl StopMatcher {
    /// Empty strings are ignored: they would stop every answer before its first letter.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    pub fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        let found = |stop: &String| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start));
        // The one that is complete first, as if the text had come letter by letter.
        if let Some((_, start)) = self.stops.iter().filter_map(found).min() {
            self.held.truncate(start);
            return Matched::Stopped(std::mem::take(&mut self.held));
        }
        let undecided = self.undecided_from();
        let rest = self.held.split_off(undecided);
        Matched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What is still held when the answer ends for another reason.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest tail begins that is also the beginning of a stop string.
    fn undecided_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        (earliest..self.held.len())
            .find(|&from| {
                self.held.is_char_boundary(from)
                    && self.stops.iter().any(|stop| stop.starts_with(&self.held[from..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Philox;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut emitted = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Matched::Text(text) => emitted.push_str(&text),
                Matched::Stopped(text) => return (emitted + &text, true),
            }
        }
        (emitted + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_cut_by_tokens_is_found_and_never_shown() {
        assert_eq!(run(&["\n\nQ:"], &["yes.", "\n", "\nQ", ": next"]), ("yes.".into(), true));
        assert_eq!(run(&["abab"], &["a", "b", "a", "a", "b", "ab"]), ("aba".into(), true));
        assert_eq!(run(&["END"], &["EN", "E", "N"]), ("ENEN".into(), false));
        assert_eq!(run(&["é"], &["caf", "é!"]), ("caf".into(), true));
        assert_eq!(run(&["", "x"], &["y"]), ("y".into(), false));
        assert_eq!(run(&[], &["y"]), ("y".into(), false));
    }

    #[test]
    fn of_two_the_one_that_is_complete_first_ends_the_answer() {
        assert_eq!(run(&["c", "bcd"], &["ab", "cd"]), ("ab".into(), true));
        assert_eq!(run(&["c", "bcd"], &["abcd"]), ("ab".into(), true));
        assert_eq!(run(&["bcd", "b"], &["abcd"]), ("a".into(), true));
        assert_eq!(run(&["bc", "abc"], &["abc"]), ("".into(), true));
    }

    /// However a text is cut into pieces, what comes out is the text before the first stop string.
    #[test]
    fn cutting_does_not_matter() {
        let mut rng = Philox::new(3, 0);
        for _ in 0..3000 {
            let text: String = (0..rng.below(14)).map(|_| ['a', 'b', 'é'][rng.below(3) as usize]).collect();
            let stop: String =
                (0..1 + rng.below(4)).map(|_| ['a', 'b', 'é'][rng.below(3) as usize]).collect();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let whole = text.find(&stop).map_or((text.clone(), false), |at| (text[..at].to_string(), true));
            let pieces: Vec<String> =
                letters.chunks(1 + rng.below(3) as usize).map(|piece| piece.concat()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (emitted, stopped) = run(&[&stop], &pieces);
            assert_eq!((emitted.as_str(), stopped), (whole.0.as_str(), whole.1), "{text} / {stop}");
        }
    }
}
