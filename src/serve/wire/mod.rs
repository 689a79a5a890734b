//! What goes over the wire, in the shapes of the OpenAI API: requests read strictly, answers and their streamed
//! chunks written. Nothing here touches a model or a record.

pub mod answers;
pub mod fields;
pub mod requests;
