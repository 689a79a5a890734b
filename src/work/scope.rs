//! What one API token may do of what its role may: some of the actions, some of the models, within limits of its own.
//! A scope only narrows what may be done; its limits stand in the place of those that `serve` gives to all.

use serde::{Deserialize, Serialize};

use super::policy::{Action, Role};
use crate::base::{Error, Result};

/// The default narrows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// None: all that the role may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actions: Option<Vec<Action>>,
    /// By the names under which they are served. None: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_a_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_a_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_at_once: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_tokens_max: Option<u64>,
}

impl Scope {
    pub fn allows(&self, action: Action) -> bool {
        self.actions.as_ref().is_none_or(|actions| actions.contains(&action))
    }

    pub fn allows_model(&self, name: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|model| model == name))
    }

    /// # Errors
    /// `Usage` where it names an action that the role may not do anyway: whoever wrote it means something else.
    pub(super) fn must_fit(&self, role: Role) -> Result<()> {
        let beyond = self.actions.iter().flatten().find(|&&action| !role.may(action));
        let Some(action) = beyond else { return Ok(()) };
        let may: Vec<&str> =
            Action::ALL.iter().filter(|&&action| role.may(action)).map(|action| action.as_str()).collect();
        Err(Error::usage(format!("role {role} may not do {action}, so no token of it can"))
            .remedy(format!("role {role} may do {}", may.join(", "))))
    }
}

/// As `token ls` shows it; empty where nothing is narrowed.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let actions = self.actions.as_ref().map(|actions| {
            let names: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
            names.join(" ")
        });
        let models = self.models.as_ref().map(|models| format!("models {}", models.join(" ")));
        let limit = |what: &str, bound: Option<u64>| bound.map(|bound| format!("{bound} {what}"));
        let parts = [
            actions,
            models,
            limit("requests/min", self.requests_a_minute),
            limit("tokens/min", self.tokens_a_minute),
            limit("at once", self.answers_at_once),
            limit("tokens/answer", self.answer_tokens_max),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_not_allowed_and_no_scope_allows_all() {
        let all = Scope::default();
        assert!(all.allows(Action::AnswerAsk) && all.allows_model("any"));
        let some = Scope {
            actions: Some(vec![Action::AnswerAsk]),
            models: Some(vec!["contracts".into()]),
            ..Scope::default()
        };
        assert!(some.allows(Action::AnswerAsk) && !some.allows(Action::FeedbackGive));
        assert!(some.allows_model("contracts") && !some.allows_model("contracts-2"));
        let none = Scope { models: Some(vec![]), ..Scope::default() };
        assert!(!none.allows_model("contracts"));
        assert_eq!(some.to_string(), "answer.ask, models contracts");
        assert_eq!(all.to_string(), "");
    }

    #[test]
    fn an_action_beyond_the_role_is_refused_with_those_within_it() {
        let scope = Scope { actions: Some(vec![Action::DataIngest]), ..Scope::default() };
        scope.must_fit(Role::DataSteward).unwrap();
        let error = scope.must_fit(Role::Service).unwrap_err();
        assert!(error.remedy_text().is_some_and(|text| text.contains("answer.ask")), "{error}");
    }
}
