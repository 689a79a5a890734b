use super::*;
use crate::base::Silent;

pub(crate) fn small() -> Tokenizer {
    let texts = [
        "The data controller shall notify the supervisory authority.",
        "The processor shall notify the controller without undue delay.",
    ];
    Tokenizer::train(texts.iter().cycle().take(20).map(|text| Ok((*text).to_owned())), 400, &Silent)
        .expect("trains")
}

#[test]
fn any_text_survives_encode_and_decode() {
    let tokenizer = small();
    for text in [
        "",
        " ",
        "a",
        "The controller",
        "<|eos|>",
        "naïve — \u{1F600}\u{200D}\u{0}\u{FFFD}\r\n\t  x",
        "日本語のテキスト",
        "e\u{301}",
    ] {
        let ids = tokenizer.encode(text).expect("encodes");
        assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}
