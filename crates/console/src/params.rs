//! Query parameters: read once, repeated ones kept, unknown ones refused.

use atoll_model::{InstanceId, ServiceName};
use form_urlencoded::parse;

use crate::problem::Problem;

/// The parameters of one request.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `query`; only `known` names may be there.
    pub(crate) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> = parse(query.unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        match pairs.iter().find(|(name, _)| !known.contains(&&name[..])) {
            None => Ok(Self(pairs)),
            Some((name, _)) => Err(Problem::invalid(
                name,
                format!("unknown parameter `{name}`; known: {}", known.join(", ")),
            )),
        }
    }

    /// The value of `name`; the last wins.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next_back()
    }

    /// Every value of `name`, in order.
    pub(crate) fn all<'s>(&'s self, name: &str) -> impl DoubleEndedIterator<Item = &'s str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| &value[..])
    }

    /// `?name`, `?name=true` and `?name=1` are true.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Problem::invalid(
                name,
                format!("`{other}` is neither `true` nor `false`"),
            )),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let number = |value: &str| {
            value
                .parse()
                .map_err(|_| Problem::invalid(name, format!("`{value}` is not a number from 0")))
        };
        self.get(name).map(number).transpose()
    }
}

/// A service name from a path.
pub(crate) fn service(raw: &str) -> Result<ServiceName, Problem> {
    raw.parse()
        .map_err(|error| Problem::name("service", &error))
}

/// An instance id from a path or query.
pub(crate) fn instance(field: &str, raw: &str) -> Result<InstanceId, Problem> {
    raw.parse().map_err(|error| Problem::name(field, &error))
}
