//! Who made an object and whatever it was made of. It is sealed with the object's row and handed on from what is made to
//! what is made of it, so that nobody who can write the database makes another's work look like a stranger's.

use serde::{Deserialize, Serialize};

use crate::base::Id;

/// Somebody's part in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub object: Id,
    /// A user, a token of no user, or `local:UID`; None where it was made before this was kept.
    pub by: Option<String>,
}

/// What a row says of its makers. One from before says nothing: that somebody unknown made it.
pub(super) fn stated(makers: Vec<Made>, object: Id) -> Vec<Made> {
    if makers.is_empty() { vec![Made { object, by: None }] } else { makers }
}
