use super::*;
use crate::{
    base::Philox,
    infer::{
        Sampling,
        testkit::{ToyModel, tokenizer},
    },
    ops::sample::argmax,
};

const CONTEXT: usize = 64;

fn engine(blocks: usize, options: EngineOptions) -> Engine {
    let tokenizer = tokenizer();
    let model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, blocks);
    Engine::start(Box::new(model), tokenizer, options).expect("starts")
}

fn ask(prompt: Vec<u32>, max_tokens: usize) -> Generation {
    Generation { prompt, sampling: Sampling::greedy(), stop: vec![], max_tokens, ignore_eos: false }
}

#[derive(Debug, PartialEq)]
struct Heard {
    tokens: Vec<u32>,
    text: String,
    ending: Result<(FinishReason, Usage)>,
}

fn hear(mut events: Events) -> Heard {
    let (mut tokens, mut text) = (Vec::new(), String::new());
    loop {
        match events.next_blocking() {
            Event::Token(piece) => {
                tokens.push(piece.token);
                text.push_str(&piece.text);
            }
            Event::Finished { reason, usage, rest } => {
                return Heard { tokens, text: text + &rest, ending: Ok((reason, usage)) };
            }
            Event::Failed(error) => return Heard { tokens, text, ending: Err(error) },
        }
    }
}

/// What a greedy answer must be, computed without engine, batch or cache.
fn greedy(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let vocabulary = tokenizer().vocab_size();
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(argmax(&ToyModel::logits(vocabulary, &tokens)));
    }
    tokens.split_off(prompt.len())
}

#[test]
fn greedy_answers_do_not_depend_on_the_batch_nor_on_preemption() {
    // 20 blocks of 4: several of these requests at once do not fit, so some are pre-empted and recomputed.
    let budget = StepBudget { tokens: 12, sequences: 6, prompt_piece: 5 };
    let engine = engine(20, EngineOptions { budget, ..EngineOptions::default() });
    let mut rng = Philox::new(2, 0);
    let requests: Vec<(Vec<u32>, usize)> = (0..40)
        .map(|_| {
            let prompt = (0..1 + rng.below(20)).map(|_| rng.below(290) as u32).collect();
            (prompt, 1 + rng.below(30) as usize)
        })
        .collect();
    let listeners: Vec<Events> = requests
        .iter()
        .map(|(prompt, max_tokens)| engine.submit(ask(prompt.clone(), *max_tokens)).expect("taken"))
        .collect();
    for ((prompt, max_tokens), events) in requests.iter().zip(listeners) {
        let heard = hear(events);
        assert_eq!(heard.tokens, greedy(prompt, *max_tokens));
        assert_eq!(heard.text, engine.tokenizer().decode(&heard.tokens));
        let usage = Usage { prompt_tokens: prompt.len(), completion_tokens: *max_tokens };
        assert_eq!(heard.ending, Ok((FinishReason::Length, usage)));
    }
    assert!(engine.counters().preemptions.load(Ordering::Relaxed) > 0, "the test must exercise pre-emption");
}

#[test]
fn a_seed_gives_the_same_answer_in_any_company() {
    let engine = engine(64, EngineOptions::default());
    let sampling = Sampling { seed: Some(5), top_p: 0.9, ..Sampling::default() };
    let request = Generation { sampling, ..ask(vec![1, 2, 3], 20) };
    let alone = hear(engine.submit(request.clone()).expect("taken"));
    let _company: Vec<Events> = (0..5).map(|n| engine.submit(ask(vec![n; 9], 40)).expect("taken")).collect();
    assert_eq!(hear(engine.submit(request).expect("taken")), alone);
}

#[test]
fn end_tokens_and_stop_strings_end_an_answer() {
    let answer = greedy(&[9, 9], 8);
    let end = answer[5];
    let options = EngineOptions { end_tokens: vec![end], ..EngineOptions::default() };
    let engine = engine(64, options);
    let ended = hear(engine.submit(ask(vec![9, 9], 30)).expect("taken"));
    let first = answer.iter().position(|&token| token == end).expect("it is in there");
    assert_eq!(ended.tokens, answer[..=first]);
    assert_eq!(ended.text, engine.tokenizer().decode(&answer[..first]), "the end token writes nothing");
    assert!(matches!(ended.ending, Ok((FinishReason::Stop, _))));

    let ignoring = Generation { ignore_eos: true, ..ask(vec![9, 9], 8) };
    assert_eq!(hear(engine.submit(ignoring.clone()).expect("taken")).tokens, answer);

    let whole = engine.tokenizer().decode(&answer);
    let stop: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let stopped = hear(engine.submit(Generation { stop: vec![stop.clone()], ..ignoring }).expect("taken"));
    assert_eq!(Some(stopped.text.as_str()), whole.split(&stop).next());
    assert!(matches!(stopped.ending, Ok((FinishReason::Stop, _))));
}

#[test]
fn what_cannot_work_is_refused_before_it_starts() {
    let tokenizer = tokenizer();
    let model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 8);
    let gate = Arc::clone(&model.gate);
    let options = EngineOptions { requests_max: 1, ..EngineOptions::default() };
    let engine = Engine::start(Box::new(model), tokenizer, options).expect("starts");
    let refusal = |generation| engine.submit(generation).map(|_| ()).unwrap_err();
    assert_eq!(refusal(ask(vec![], 1)), Refusal::EmptyPrompt);
    assert_eq!(refusal(ask(vec![1], 0)), Refusal::NoTokensAsked);
    // The context is 64, but the cache holds 8 blocks of 4.
    let too_long =
        |prompt_tokens, max_tokens| Refusal::TooLong { prompt_tokens, max_tokens, context_tokens: 32 };
    assert_eq!(refusal(ask(vec![1; 32], 1)), too_long(32, 1));
    assert_eq!(refusal(ask(vec![1], usize::MAX)), too_long(1, usize::MAX));
    assert!(matches!(refusal(ask(vec![99_999], 1)), Refusal::UnknownToken { token: 99_999, .. }));
    let broken = Sampling { temperature: -1.0, ..Sampling::default() };
    assert!(matches!(refusal(Generation { sampling: broken, ..ask(vec![1], 1) }), Refusal::Sampling(_)));

    let held = gate.lock().expect("nobody panicked");
    let first = engine.submit(ask(vec![1; 20], 12)).expect("taken");
    assert_eq!(refusal(ask(vec![1], 1)), Refusal::Busy);
    drop(held);
    hear(first);
    // The slot is free a moment after the last event.
    while engine.submit(ask(vec![1], 1)).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn a_listener_that_goes_away_frees_its_blocks() {
    let tokenizer = tokenizer();
    let mut model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 64);
    model.step_time = Duration::from_millis(2);
    let steps = Arc::clone(&model.steps);
    let engine = Engine::start(Box::new(model), tokenizer, EngineOptions::default()).expect("starts");
    let mut events = engine.submit(ask(vec![1], 60)).expect("taken");
    events.next_blocking();
    drop(events);
    while engine.counters().blocks_in_use.load(Ordering::Relaxed) > 0 {
        std::thread::yield_now();
    }
    assert!(steps.load(Ordering::SeqCst) < 60, "it went on to the end");
}

#[test]
fn a_failed_step_is_told_and_the_engine_goes_on() {
    let tokenizer = tokenizer();
    let mut model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 64);
    model.fails_at = 2;
    let engine = Engine::start(Box::new(model), tokenizer, EngineOptions::default()).expect("starts");
    let heard = hear(engine.submit(ask(vec![1], 10)).expect("taken"));
    assert!(heard.ending.unwrap_err().to_string().contains("running the model: out of memory"));
    assert_eq!(hear(engine.submit(ask(vec![1], 3)).expect("taken")).tokens, greedy(&[1], 3));
}

#[test]
fn a_model_that_panics_takes_its_listeners_leave_and_is_known_dead() {
    let tokenizer = tokenizer();
    let mut model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 64);
    model.panics_at = 1;
    let engine = Engine::start(Box::new(model), tokenizer, EngineOptions::default()).expect("starts");
    assert!(!engine.has_died());
    let heard = hear(engine.submit(ask(vec![1], 10)).expect("taken"));
    assert!(heard.ending.unwrap_err().to_string().contains("the engine stopped"));
    while engine.is_ready() {
        std::thread::yield_now();
    }
    assert!(engine.has_died());
    assert_eq!(engine.submit(ask(vec![1], 1)).map(|_| ()).unwrap_err(), Refusal::Stopping);
}

#[test]
fn shutting_down_finishes_what_runs_or_cancels_it_when_time_is_up() {
    let tokenizer = tokenizer();
    let slow = |tokenizer: &Tokenizer| {
        let mut model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 64);
        model.step_time = Duration::from_millis(3);
        Box::new(model)
    };
    let patient =
        Engine::start(slow(&tokenizer), Arc::clone(&tokenizer), EngineOptions::default()).expect("starts");
    let events = patient.submit(ask(vec![1], 10)).expect("taken");
    patient.shutdown(Duration::from_secs(60));
    assert_eq!(hear(events).tokens.len(), 10);
    assert_eq!(patient.submit(ask(vec![1], 1)).map(|_| ()).unwrap_err(), Refusal::Stopping);
    assert!(!patient.is_ready());

    let hasty = Engine::start(slow(&tokenizer), tokenizer, EngineOptions::default()).expect("starts");
    let mut events = hasty.submit(ask(vec![1], 60)).expect("taken");
    events.next_blocking();
    hasty.shutdown(Duration::ZERO);
    assert!(matches!(hear(events).ending, Ok((FinishReason::Cancelled, _))));
}

#[test]
fn a_tokenizer_that_is_larger_than_the_model_is_refused() {
    let model = ToyModel::new(10, CONTEXT, 8);
    assert!(Engine::start(Box::new(model), tokenizer(), EngineOptions::default()).is_err());
}
