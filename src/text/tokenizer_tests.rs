use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::{
    base::{
        Philox, Silent,
        damage::{FIRST_TIER, again_and_again},
    },
    text::{Message, StreamDecoder, vocab_size_for},
};

/// What Hugging Face's own libraries made of some texts: `tests/golden/tokenizer.py`.
#[derive(Deserialize)]
pub(crate) struct Golden {
    texts: Vec<String>,
    tokenizer: Value,
    cases: Vec<(String, Vec<u32>)>,
    pub templates: BTreeMap<String, String>,
    pub chats: Vec<Chat>,
}

/// Template, messages, generation prompt, text, ids.
pub(crate) type Chat = (String, Vec<Message>, bool, String, Vec<u32>);

pub(crate) fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/golden/tokenizer.json")).expect("the golden file")
}

impl Golden {
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_json(self.tokenizer.to_string().as_bytes()).expect("a tokenizer from elsewhere")
    }
}

pub(crate) fn small() -> Tokenizer {
    let texts = [
        "The data controller shall notify the supervisory authority.",
        "The processor shall notify the controller without undue delay.",
    ];
    train(texts.iter().cycle().take(20).map(|text| (*text).to_owned()).collect(), 400)
}

fn train(texts: Vec<String>, vocab_size: usize) -> Tokenizer {
    Tokenizer::train(texts.into_iter().map(Ok), vocab_size, &Silent).expect("trains")
}

/// Text of letters that are likely to be cut, joined or dropped.
fn random_text(rng: &mut Philox) -> String {
    let odd: Vec<char> =
        "aZ09 \t\r\n.,'’§-_<|>éßÅ\u{301}\u{AD}\u{200D}\u{FEFF}\u{FFFD}\0日本€😀🇩🇪हिन्दीع\u{2028}"
            .chars()
            .collect();
    let length = rng.below(40);
    (0..length)
        .map(|_| match rng.below(8) {
            0 => char::from_u32(rng.below(0x11_0000) as u32).unwrap_or(' '),
            _ => odd[rng.below(odd.len() as u64) as usize],
        })
        .collect()
}

#[test]
fn encodes_as_hugging_face_does() {
    let golden = golden();
    let tokenizer = golden.tokenizer();
    assert!(tokenizer.words.is_some());
    for (text, ids) in &golden.cases {
        assert_eq!(&tokenizer.encode(text).expect("encodes"), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids), text);
    }
    let texts: Vec<&str> = golden.cases.iter().map(|(text, _)| text.as_str()).collect();
    let batch = tokenizer.encode_batch(&texts).expect("encodes");
    assert!(batch.iter().zip(&golden.cases).all(|(ids, (_, expected))| ids == expected));
}

#[test]
fn trains_as_hugging_face_does_and_the_same_each_time() {
    let golden = golden();
    let json = train(golden.texts.clone(), 900).to_json().expect("json");
    let ours: Value = serde_json::from_slice(&json).expect("json");
    for part in ["vocab", "merges"] {
        assert_eq!(ours["model"][part], golden.tokenizer["model"][part], "{part}");
    }
    assert_eq!(ours["pre_tokenizer"], golden.tokenizer["pre_tokenizer"]);
    assert_eq!(ours["added_tokens"], golden.tokenizer["added_tokens"]);
    for _ in 0..5 {
        assert_eq!(train(golden.texts.clone(), 900).to_json().expect("json"), json);
    }
    let again = Tokenizer::from_json(&json).expect("its own json");
    assert_eq!(again.to_json().expect("json"), json);
}

#[test]
fn any_text_survives_encode_and_decode() {
    let tokenizer = golden().tokenizer();
    let mut rng = Philox::new(5, 0);
    for _ in 0..3000 {
        let text = random_text(&mut rng);
        let ids = tokenizer.encode(&text).expect("encodes");
        // The short way by words is no other way than that of the library.
        let step_by_step = tokenizer.inner.encode_fast(text.as_str(), false).expect("encodes");
        assert_eq!(ids, step_by_step.get_ids(), "{text:?}");
        assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn a_stream_says_what_the_whole_says_and_never_half_a_character() {
    let tokenizer = golden().tokenizer();
    let mut rng = Philox::new(6, 0);
    for _ in 0..2000 {
        // Ids at random: most of them do not fit together as UTF-8.
        let ids: Vec<u32> = match rng.below(2) {
            0 => (0..rng.below(30)).map(|_| rng.below(tokenizer.vocab_size() as u64 + 3) as u32).collect(),
            _ => tokenizer.encode(&random_text(&mut rng)).expect("encodes"),
        };
        let mut decoder = StreamDecoder::new();
        let mut streamed = String::new();
        for &id in &ids {
            streamed.push_str(&decoder.push(&tokenizer, id));
            assert!(tokenizer.decode(&ids).starts_with(&streamed), "{ids:?}");
        }
        streamed.push_str(&decoder.flush());
        assert_eq!(streamed, tokenizer.decode(&ids), "{ids:?}");
    }
}

#[test]
fn text_that_spells_a_special_token_is_text_unless_it_is_ours() {
    let tokenizer = small();
    let end = tokenizer.special(Special::End).expect("it has one");
    assert!(!tokenizer.encode("<|end|>").expect("encodes").contains(&end));
    assert_eq!(tokenizer.encode_with_specials("<|end|>").expect("encodes"), [end]);
    let around = tokenizer.encode_with_specials("a<|end|><|end|>b<|en").expect("encodes");
    assert_eq!(around.iter().filter(|&&id| id == end).count(), 2);
    assert_eq!(tokenizer.decode(&around), "ab<|en");
    assert_eq!(Special::ALL.map(|special| tokenizer.special(special)), [0, 1, 2, 3, 4, 5, 6].map(Some));
}

#[test]
fn a_document_that_spells_special_tokens_trains_no_new_ones() {
    let tokenizer = train(vec!["<|eos|> <|eos|> <|eos|> and more".repeat(50)], 400);
    assert_eq!(tokenizer.summary().special_tokens, Special::ALL.map(Special::text));
    assert!(!tokenizer.encode("<|eos|>").expect("encodes").contains(&1));
}

#[test]
fn hostile_json_is_refused_and_never_panics() {
    let good = golden().tokenizer;
    let change = |path: &str, value: Value| {
        let mut json = good.clone();
        *json.pointer_mut(path).expect("the golden file has it") = value;
        json.to_string()
    };
    let mut holes = good.clone();
    holes["model"]["vocab"]["Ġ"] = json!(50_000);
    let mut twice = good.clone();
    twice["model"]["vocab"]["Ġ"] = json!(30);
    let mut no_byte = good.clone();
    no_byte["model"]["vocab"].as_object_mut().expect("a map").remove("Ċ");
    let hostile = [
        String::new(),
        "null".into(),
        "{}".into(),
        "[".repeat(100_000),
        good.to_string().chars().take(5000).collect(),
        change("/model/type", json!("WordPiece")),
        change("/model/type", json!(7)),
        change("/model", json!({"type": "WordLevel", "vocab": {}, "unk_token": "x"})),
        change("/model/vocab", json!({})),
        change("/model/vocab", json!({"a": -1})),
        change("/model/vocab", json!({"a": 4_294_967_295u32})),
        change("/model/merges", json!([["a", "nowhere"]])),
        change("/model/merges", json!(["a"])),
        change("/decoder", Value::Null),
        change("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
        change("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "("})),
        change("/added_tokens/0/id", json!(900_000)),
        holes.to_string(),
        twice.to_string(),
        no_byte.to_string(),
    ];
    let mut refused = 0;
    for (number, json) in hostile.iter().enumerate() {
        match Tokenizer::from_json(json.as_bytes()) {
            // What the library can set right by itself must then work.
            Ok(tokenizer) => {
                let ids = tokenizer.encode("any text, é").expect("encodes");
                assert_eq!(tokenizer.decode(&ids), "any text, é", "{number}");
            }
            Err(error) => {
                assert!(error.to_string().contains("tokenizer.json"), "{number}: {error}");
                assert!(error.remedy_text().is_some());
                refused += 1;
            }
        }
    }
    assert!(refused + 1 >= hostile.len(), "{refused} of {}", hostile.len());
}

#[test]
fn a_vocabulary_that_cannot_be_is_a_usage_error_and_a_failed_text_is_its_own() {
    for vocab_size in [0, 256, VOCAB_MAX + 1] {
        let error = Tokenizer::train(std::iter::empty(), vocab_size, &Silent).unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::Usage);
    }
    let texts = [Ok("some text".to_owned()), Err(Error::integrity("the third chunk")), Ok("more".to_owned())];
    let error = Tokenizer::train(texts.into_iter(), 300, &Silent).unwrap_err();
    assert!(error.to_string().contains("the third chunk"), "{error}");
    // Nothing to learn from: the bytes alone, and they work.
    let bytes_alone = Tokenizer::train(std::iter::empty(), 300, &Silent).expect("trains");
    assert_eq!(bytes_alone.decode(&bytes_alone.encode("ab é").expect("encodes")), "ab é");
}

#[test]
fn vocabulary_sizes_grow_with_the_corpus_and_fit_sixteen_bits() {
    let sizes: Vec<usize> = (0..50).map(|power| vocab_size_for(1u64 << power)).collect();
    assert!(sizes.is_sorted() && sizes.iter().all(|&size| (512..=65_536).contains(&size)), "{sizes:?}");
    assert_eq!(vocab_size_for(3 << 20), 4096);
}

/// Of tokenizer files, in the long tier.
const MUTATIONS: u64 = 30_000;

#[test]
fn a_file_damaged_at_random_is_refused_or_works() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn a_file_damaged_at_random_is_always_refused_or_works() {
    withstands_damage(MUTATIONS);
}

fn withstands_damage(mutations: u64) {
    let wholes = [small().to_json().expect("plain data"), golden().tokenizer.to_string().into_bytes()];
    again_and_again(mutations, 8, &wholes, |_, damaged| {
        let Ok(tokenizer) = Tokenizer::from_json(damaged) else { return };
        let Ok(tokens) = tokenizer.encode("The controller shall notify it — é😀 without\tdelay.") else {
            return;
        };
        assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
        tokenizer.decode(&tokens);
    });
}
