//! Is it fair to compare these two at all?

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recording::Identity;

/// What two recordings can differ in before anything was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// The question: traffic, cluster, engine, policies.
    Scenario,
    /// What steps cost.
    Profile,
    /// The program.
    Build,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Aspect; 3] = [Aspect::Scenario, Aspect::Profile, Aspect::Build];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Scenario => "scenario",
            Aspect::Profile => "profile",
            Aspect::Build => "build",
        }
    }
}

/// Something that differs before anything was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unlike {
    /// What.
    pub aspect: Aspect,
    /// On the one side.
    pub base: String,
    /// On the other.
    pub new: String,
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "different {}: {} against {}", self.aspect.name(), self.base, self.new)
    }
}

/// In what do these differ? What one side does not say is not held against the other.
pub(crate) fn unlike(base: &Identity, new: &Identity) -> Vec<Unlike> {
    let mut found = Vec::new();
    let mut note = |aspect, base: String, new: String| found.push(Unlike { aspect, base, new });
    let scenario = |identity: &Identity| match &identity.scenario {
        Some(digest) => format!("`{}` ({digest})", identity.name),
        None => format!("`{}`", identity.name),
    };
    let digests_differ = base.scenario.is_some() && new.scenario.is_some() && base.scenario != new.scenario;
    if base.name != new.name || digests_differ {
        note(Aspect::Scenario, scenario(base), scenario(new));
    }
    if !base.profiles.is_empty() && !new.profiles.is_empty() && base.profiles != new.profiles {
        let only = |these: &Identity, those: &Identity| {
            let names: Vec<String> = these
                .profiles
                .iter()
                .filter(|profile| !those.profiles.contains(profile))
                .map(
                    |(name, digest)| {
                        if digest.is_empty() { format!("`{name}`") } else { format!("`{name}` ({digest})") }
                    },
                )
                .collect();
            if names.is_empty() { "no other".to_owned() } else { names.join(", ") }
        };
        note(Aspect::Profile, only(base, new), only(new, base));
    }
    if let (Some(base), Some(new)) = (&base.build, &new.build)
        && base != new
    {
        note(Aspect::Build, base.clone(), new.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "cluster".to_owned(),
            scenario: Some("aa".to_owned()),
            profiles: vec![("h200".to_owned(), "11".to_owned())],
            build: Some("aril 0.1.0".to_owned()),
        }
    }

    #[test]
    fn what_differs_is_named_once_each() {
        assert!(unlike(&identity(), &identity()).is_empty());
        let mut other = identity();
        other.scenario = Some("bb".to_owned());
        other.profiles[0].1 = "22".to_owned();
        other.build = Some("aril 0.2.0".to_owned());
        let aspects: Vec<_> = unlike(&identity(), &other).iter().map(|unlike| unlike.aspect).collect();
        assert_eq!(aspects, Aspect::ALL);
        assert_eq!(unlike(&identity(), &other)[1].to_string(), "different profile: `h200` (11) against `h200` (22)");
    }

    #[test]
    fn what_is_not_known_is_not_held_against_anybody() {
        let other = Identity { name: "cluster".to_owned(), ..Identity::default() };
        assert!(unlike(&identity(), &other).is_empty());
    }
}
