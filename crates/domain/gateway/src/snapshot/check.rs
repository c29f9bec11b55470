//! What is wrong with a configuration, and what is only odd.

use std::collections::HashMap;
use std::fmt;

use super::rewrite::template_parts;
use crate::config::{Config, Match, Rewrite, Route, Segment};
use crate::router::{SEGMENTS_MAX, Shadowed};

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileErrors(pub Vec<CompileError>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: route `{route}`: {message}")]
pub struct CompileError {
    /// Where the route stands in the file.
    pub origin: String,
    /// The route.
    pub route: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// One thing that is odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where the route stands in the file.
    pub origin: String,
    /// The route.
    pub route: String,
    /// What is odd.
    pub message: String,
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "\n" };
            write!(f, "{between}{error}")?;
        }
        Ok(())
    }
}

pub(super) fn check(config: &Config) -> Result<(), CompileErrors> {
    let mut errors = Vec::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    for route in &config.routes {
        let mut refuse = |message: String| {
            errors.push(CompileError {
                origin: route.origin.clone(),
                route: route.name.clone(),
                message,
            });
        };
        if let Some(first) = names.insert(&route.name, &route.origin) {
            refuse(format!("the name is taken by the route at {first}"));
        }
        if route.matches.is_empty() {
            refuse("it matches nothing; give it at least one path".to_owned());
        }
        if route.backends.is_empty() {
            refuse("it has no backend to send requests to".to_owned());
        }
        for matching in &route.matches {
            check_match(route, matching, &mut refuse);
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CompileErrors(errors))
    }
}

fn check_match(route: &Route, matching: &Match, refuse: &mut impl FnMut(String)) {
    let pattern = &matching.path.pattern;
    let segments = &matching.path.segments;
    if segments.len() > SEGMENTS_MAX {
        refuse(format!(
            "`{pattern}` has {} segments, at most {SEGMENTS_MAX} are possible",
            segments.len()
        ));
    }
    let before_last = segments.len().saturating_sub(1);
    if segments[..before_last]
        .iter()
        .any(|segment| matches!(segment, Segment::Rest(_)))
    {
        refuse(format!(
            "`{pattern}`: what takes the rest of the path must stand at its end"
        ));
    }
    let mut seen = Vec::new();
    for segment in segments {
        if let Segment::Param(name) | Segment::Rest(name) = segment {
            if seen.contains(&name) {
                refuse(format!("`{pattern}` has `{{{name}}}` twice"));
            }
            seen.push(name);
        }
    }
    let Rewrite::Template(template) = &route.rewrite else {
        return;
    };
    match template_parts(template, segments) {
        Ok(_) if template.starts_with('/') => {}
        Ok(_) => refuse(format!("the rewrite `{template}` must begin with `/`")),
        Err(message) => refuse(format!(
            "the rewrite `{template}` of `{pattern}`: {message}"
        )),
    }
}

pub(super) fn warnings(config: &Config, shadowed: &[Shadowed]) -> Vec<Warning> {
    let never = shadowed.iter().map(|pair| {
        let route = &config.routes[pair.shadowed.route];
        let winner = &config.routes[pair.winner.route];
        let pattern = &route.matches[pair.shadowed.matching].path.pattern;
        Warning {
            origin: route.origin.clone(),
            route: route.name.clone(),
            message: format!(
                "`{pattern}` is never reached: route `{}` at {} has the same conditions and stands first",
                winner.name, winner.origin
            ),
        }
    });
    let weightless = config.routes.iter().filter(|route| {
        !route.backends.is_empty() && route.backends.iter().all(|backend| backend.weight == 0)
    });
    let nobody = weightless.map(|route| Warning {
        origin: route.origin.clone(),
        route: route.name.clone(),
        message: "all its backends have weight 0, so every request is answered 503".to_owned(),
    });
    never.chain(nobody).collect()
}
