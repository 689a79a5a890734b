//! The run's one honest progress line: loss, learning rate, tokens per second, utilisation, and how long is left.

use std::collections::VecDeque;
use std::time::Instant;

use crate::base::{Progress, units::Count};

/// Seconds that rates are taken over: long enough to be calm, short enough to notice a slower machine.
const WINDOW_S: f64 = 20.0;

/// What is constant over a run.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub steps: u64,
    pub tokens_per_step: u64,
    pub flops_per_token: f64,
    /// Measured when the run began; the whole machine's as far as the run may use it.
    pub matrix_flops_per_s: f64,
}

pub struct Meter {
    scale: Scale,
    began: Instant,
    /// Seconds of the processes before this one.
    before_s: f64,
    /// Times (since `began`) at which steps ended, oldest first.
    ends: VecDeque<(f64, u64)>,
    steps_here: u64,
    /// Seconds of this process spent on other things than steps: evaluation.
    aside_s: f64,
    /// Smoothed over about ten steps.
    loss: Option<f64>,
}

impl Meter {
    pub fn new(scale: Scale, before_s: f64) -> Self {
        Self {
            scale,
            began: Instant::now(),
            before_s,
            ends: VecDeque::new(),
            steps_here: 0,
            aside_s: 0.0,
            loss: None,
        }
    }

    /// Seconds of training in all processes.
    pub fn elapsed_s(&self) -> f64 {
        self.before_s + self.began.elapsed().as_secs_f64()
    }

    /// A step has ended with this loss in nats per token.
    pub fn step_ended(&mut self, step: u64, loss: f64) {
        self.steps_here += 1;
        self.loss = Some(self.loss.map_or(loss, |smooth| smooth + 0.1 * (loss - smooth)));
        self.mark(self.began.elapsed().as_secs_f64() - self.aside_s, step);
    }

    /// Runs something that is not a step, and keeps its time out of the rates.
    pub fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.aside_s += start.elapsed().as_secs_f64();
        result
    }

    fn mark(&mut self, at: f64, step: u64) {
        self.ends.push_back((at, step));
        while self.ends.len() > 2 && at - self.ends[0].0 > WINDOW_S {
            self.ends.pop_front();
        }
        // Whoever is faster than the yardstick shows that it was taken while the machine was busy.
        let reached = self.tokens_per_s().unwrap_or(0.0) * self.scale.flops_per_token;
        self.scale.matrix_flops_per_s = self.scale.matrix_flops_per_s.max(reached);
    }

    /// Over the last steps; None before the second.
    pub fn tokens_per_s(&self) -> Option<f64> {
        let (first, last) = (self.ends.front()?, self.ends.back()?);
        let seconds = last.0 - first.0;
        (seconds > 0.0).then(|| ((last.1 - first.1) * self.scale.tokens_per_step) as f64 / seconds)
    }

    /// Over the whole of this process's steps.
    pub fn mean_tokens_per_s(&self) -> f64 {
        let seconds = self.began.elapsed().as_secs_f64() - self.aside_s;
        if seconds > 0.0 { (self.steps_here * self.scale.tokens_per_step) as f64 / seconds } else { 0.0 }
    }

    /// The line after `step` steps, with the learning rate of the last one.
    pub fn progress(&self, step: u64, learning_rate: f64, heldout: Option<f64>) -> Progress {
        let rate = self.tokens_per_s();
        let left = (self.scale.steps - step) * self.scale.tokens_per_step;
        let mut gauges = Vec::new();
        let mut gauge = |name: &str, value: String| gauges.push((name.to_string(), value));
        if let Some(loss) = self.loss {
            gauge("loss", format!("{loss:.3}"));
        }
        if let Some(bits) = heldout {
            gauge("held-out bits/byte", format!("{bits:.3}"));
        }
        gauge("lr", format!("{learning_rate:.1e}"));
        if let Some(rate) = rate {
            gauge("tok/s", Count(rate).to_string());
            let used = rate * self.scale.flops_per_token / self.scale.matrix_flops_per_s;
            gauge("of matrix rate", format!("{:.0}%", 100.0 * used));
        }
        Progress {
            stage: "pretrain".into(),
            done: step,
            total: self.scale.steps,
            unit: "step".into(),
            elapsed_s: self.elapsed_s(),
            remaining_s: rate.map(|rate| left as f64 / rate),
            gauges,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale =
        Scale { steps: 100, tokens_per_step: 1000, flops_per_token: 1e6, matrix_flops_per_s: 1e10 };

    #[test]
    fn rates_come_from_the_last_steps() {
        let mut meter = Meter::new(SCALE, 3600.0);
        assert_eq!(meter.tokens_per_s(), None);
        assert_eq!(meter.progress(0, 1e-3, None).remaining_s, None, "nothing honest can be said yet");
        // Ten slow steps of 4 s, then fast ones of 1 s: after the window has passed only the fast ones count.
        (0..10).for_each(|step| meter.mark(4.0 * step as f64, step));
        assert_eq!(meter.tokens_per_s(), Some(250.0));
        (0..30).for_each(|step| meter.mark(36.0 + (step + 1) as f64, 10 + step));
        let progress = meter.progress(40, 1e-3, Some(2.5));
        assert_eq!(progress.remaining_s, Some(60.0));
        assert!(progress.elapsed_s >= 3600.0);
        let gauges: Vec<String> =
            progress.gauges.iter().map(|(name, value)| format!("{name} {value}")).collect();
        assert_eq!(gauges, ["held-out bits/byte 2.500", "lr 1.0e-3", "tok/s 1.00k", "of matrix rate 10%"]);
    }

    #[test]
    fn a_run_cannot_be_faster_than_its_machine() {
        let mut meter = Meter::new(Scale { matrix_flops_per_s: 1e8, ..SCALE }, 0.0);
        // Five times the yardstick: 1000 tokens in 2 s, a million FLOPs each.
        (0..30).for_each(|step| meter.mark(2.0 * step as f64, step));
        assert_eq!(meter.scale.matrix_flops_per_s, 500.0 * 1e6);
        let gauges = meter.progress(29, 1e-3, None).gauges;
        assert_eq!(gauges.last(), Some(&("of matrix rate".to_owned(), "100%".to_owned())));
    }

    #[test]
    fn the_loss_is_smoothed_from_its_first_value() {
        let mut meter = Meter::new(SCALE, 0.0);
        meter.step_ended(1, 5.0);
        assert_eq!(meter.loss, Some(5.0));
        meter.step_ended(2, 4.0);
        assert_eq!(meter.loss, Some(4.9));
    }
}
