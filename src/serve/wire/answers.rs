//! Answers as the OpenAI API writes them, whole or in chunks of a stream.

use serde_json::{Map, Value, json};

use crate::{
    base::Id,
    infer::{FinishReason, Piece, Usage},
    store::AnswerKind,
};

/// What every chunk of one answer repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub id: Id,
    pub kind: AnswerKind,
    pub created_s: u64,
    pub model: String,
    /// Whether the client asked for the usage at the end: then every chunk says that it is not the end.
    pub include_usage: bool,
}

impl Envelope {
    /// The whole answer.
    pub fn whole(
        &self,
        text: &str,
        pieces: Option<&[LoggedPiece]>,
        reason: FinishReason,
        usage: Usage,
    ) -> Value {
        let choice = match self.kind {
            AnswerKind::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": pieces.map(logprobs),
                "finish_reason": finish_reason(reason),
            }),
            AnswerKind::Completion => json!({
                "index": 0,
                "text": text,
                "logprobs": null,
                "finish_reason": finish_reason(reason),
            }),
        };
        let mut answer = self.frame(false, vec![choice]);
        answer.insert("usage".into(), usage_json(usage));
        Value::Object(answer)
    }

    /// The first chunk of a chat, which says who speaks; a completion's stream has none.
    pub fn opening(&self) -> Option<Value> {
        (self.kind == AnswerKind::Chat).then(|| {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            self.chunk(json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}))
        })
    }

    pub fn text(&self, text: &str, piece: Option<&LoggedPiece>) -> Value {
        self.chunk(match self.kind {
            AnswerKind::Chat => json!({
                "index": 0,
                "delta": {"content": text},
                "logprobs": piece.map(|piece| logprobs(std::slice::from_ref(piece))),
                "finish_reason": null,
            }),
            AnswerKind::Completion => {
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": null})
            }
        })
    }

    pub fn closing(&self, reason: FinishReason) -> Value {
        let reason = finish_reason(reason);
        self.chunk(match self.kind {
            AnswerKind::Chat => json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason}),
            AnswerKind::Completion => {
                json!({"index": 0, "text": "", "logprobs": null, "finish_reason": reason})
            }
        })
    }

    /// The chunk behind the last, with no choice in it.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.frame(true, Vec::new());
        chunk.insert("usage".into(), usage_json(usage));
        Value::Object(chunk)
    }

    fn chunk(&self, choice: Value) -> Value {
        let mut chunk = self.frame(true, vec![choice]);
        if self.include_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        Value::Object(chunk)
    }

    fn frame(&self, is_chunk: bool, choices: Vec<Value>) -> Map<String, Value> {
        let object = match (self.kind, is_chunk) {
            (AnswerKind::Chat, false) => "chat.completion",
            (AnswerKind::Chat, true) => "chat.completion.chunk",
            (AnswerKind::Completion, _) => "text_completion",
        };
        Map::from_iter([
            ("id".to_owned(), json!(self.id)),
            ("object".to_owned(), json!(object)),
            ("created".to_owned(), json!(self.created_s)),
            ("model".to_owned(), json!(self.model)),
            ("choices".to_owned(), Value::Array(choices)),
        ])
    }
}

/// A token with what it writes, for log probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedPiece {
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

impl LoggedPiece {
    pub fn new(piece: &Piece, bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), logprob: piece.logprob }
    }
}

fn logprobs(pieces: &[LoggedPiece]) -> Value {
    let content: Vec<Value> = pieces
        .iter()
        .map(|piece| {
            json!({
                "token": String::from_utf8_lossy(&piece.bytes),
                "logprob": piece.logprob,
                "bytes": piece.bytes,
                "top_logprobs": [],
            })
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// In the words of the OpenAI API, which has none for an answer that the server broke off.
fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Cancelled => "length",
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
