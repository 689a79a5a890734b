//! The learning rate as a function of the step and nothing else, so that a resumed run has the same one.

use serde::{Deserialize, Serialize};

use super::config::ScheduleKind;

/// Linear warm-up to `peak`, then down to `peak * final_share` at the last step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub peak: f64,
    pub final_share: f64,
    pub warmup_steps: u64,
    pub steps: u64,
    /// Share of `steps` that [`ScheduleKind::Wsd`] decays over.
    pub decay_share: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let floor = self.peak * self.final_share;
        floor + (self.peak - floor) * self.height(step)
    }

    /// 1 at the peak, 0 at the last step.
    fn height(&self, step: u64) -> f64 {
        let last = self.steps.saturating_sub(1).max(1);
        let from = match self.kind {
            ScheduleKind::Cosine => self.warmup_steps,
            ScheduleKind::Wsd => {
                (self.steps - (self.steps as f64 * self.decay_share) as u64).max(self.warmup_steps)
            }
        };
        if step <= from || last <= from {
            return 1.0;
        }
        let share = ((step - from) as f64 / (last - from) as f64).min(1.0);
        match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
            ScheduleKind::Wsd => 1.0 - share.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule { kind, peak: 1e-3, final_share: 0.1, warmup_steps: 10, steps: 110, decay_share: 0.2 }
    }

    #[test]
    fn cosine_goes_through_known_points() {
        let s = schedule(ScheduleKind::Cosine);
        let points = [(0, 1e-4), (9, 1e-3), (10, 1e-3), (109, 1e-4), (500, 1e-4)];
        for (step, rate) in points {
            assert!((s.at(step) - rate).abs() < 1e-12, "{step}: {}", s.at(step));
        }
        let middle = Schedule { steps: 111, ..s }.at(60);
        assert!((middle - 5.5e-4).abs() < 1e-12, "half way is half the height: {middle}");
    }

    #[test]
    fn wsd_is_flat_and_then_falls() {
        let s = schedule(ScheduleKind::Wsd);
        assert!((11..=88).all(|step| s.at(step) == 1e-3));
        assert!((s.at(109) - 1e-4).abs() < 1e-12);
        assert!((88..109).all(|step| s.at(step + 1) < s.at(step)));
    }

    #[test]
    fn is_finite_and_bounded_whatever_it_is_given() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Wsd] {
            for (warmup_steps, steps) in [(0, 1), (1, 1), (5, 5), (7, 3), (0, 2), (3, 4)] {
                for decay_share in [0.0, 0.5, 1.0] {
                    let s = Schedule { warmup_steps, steps, decay_share, ..schedule(kind) };
                    for step in 0..steps + 3 {
                        let rate = s.at(step);
                        assert!(rate > 0.0 && rate <= 1e-3 + 1e-15, "{kind:?} {warmup_steps} {steps} {step}");
                    }
                }
            }
        }
    }
}
