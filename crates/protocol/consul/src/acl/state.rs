//! All tokens, policies and roles in memory, with the rules read and what each token may
//! do worked out once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use atoll_net::guard::same_secret;
use atoll_store::KeyValue;

use super::authority::Authority;
use super::rules::{self, Rule};
use super::stored::{ANONYMOUS, GLOBAL_MANAGEMENT, Links, Policy, Role, Token};
use super::{BOOTSTRAPPED, POLICIES, ROLES, TOKENS};
use crate::stored::read;

/// What `global-management` says, as Consul's does.
const GLOBAL_MANAGEMENT_RULES: &str = r#"acl = "write"
agent_prefix "" { policy = "write" }
event_prefix "" { policy = "write" }
key_prefix "" { policy = "write" }
keyring = "write"
node_prefix "" { policy = "write" }
operator = "write"
mesh = "write"
peering = "write"
query_prefix "" { policy = "write" }
service_prefix "" {
  policy = "write"
  intentions = "write"
}
session_prefix "" { policy = "write" }"#;

/// One thing and when it was made and last changed.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T> {
    pub(crate) value: T,
    pub(crate) created: u64,
    pub(crate) modified: u64,
}

/// A token, and what it may do once somebody has asked.
#[derive(Debug)]
pub(crate) struct HeldToken {
    pub(crate) accessor: Arc<str>,
    pub(crate) kept: Kept<Token>,
    authority: OnceLock<Arc<Authority>>,
}

/// A policy with its rules, unless they cannot be read.
#[derive(Debug)]
pub(crate) struct HeldPolicy {
    pub(crate) kept: Kept<Policy>,
    rules: Option<Vec<Rule>>,
}

#[derive(Debug)]
pub(crate) struct State {
    default_allow: bool,
    datacenter: String,
    /// The revision of the last change.
    pub(crate) index: u64,
    /// When the first token was made.
    pub(crate) bootstrapped: Option<u64>,
    pub(crate) tokens: BTreeMap<String, HeldToken>,
    pub(crate) policies: BTreeMap<String, HeldPolicy>,
    pub(crate) roles: BTreeMap<String, Kept<Role>>,
    anonymous: HeldToken,
    /// Accessors by a hash of the secret that nobody else can compute.
    secrets: HashMap<u64, Vec<String>>,
    hasher: RandomState,
    /// What those with the same rights share.
    authorities: Mutex<Authorities>,
}

#[derive(Debug, Default)]
struct Authorities {
    /// As long as a token has it.
    known: HashMap<BTreeSet<String>, Weak<Authority>>,
    management: Option<Arc<Authority>>,
}

/// Rights that are remembered before those are forgotten that no token has.
const KNOWN_LEAST: usize = 64;

/// Counts authorities over all states, so that none ever has the id of another.
static LAST_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl State {
    /// What the keys below `consul/acl/` come to.
    pub(crate) fn of(default_allow: bool, datacenter: &str, items: &[Arc<KeyValue>]) -> Self {
        let mut state = Self {
            default_allow,
            datacenter: datacenter.to_owned(),
            index: 1,
            bootstrapped: None,
            tokens: BTreeMap::new(),
            policies: BTreeMap::new(),
            roles: BTreeMap::new(),
            anonymous: anonymous(),
            secrets: HashMap::new(),
            hasher: RandomState::new(),
            authorities: Mutex::default(),
        };
        let management = Policy {
            name: "global-management".to_owned(),
            description: "Builtin Policy that grants unlimited access".to_owned(),
            rules: GLOBAL_MANAGEMENT_RULES.to_owned(),
            datacenters: Vec::new(),
        };
        state.put_policy(GLOBAL_MANAGEMENT, management, 1, 1);
        for item in items {
            state.apply(item.key.as_bytes(), Some(item));
            state.index = state.index.max(item.mod_revision.0);
        }
        state
    }

    /// Takes in that a key has this value now, or none.
    pub(crate) fn apply(&mut self, key: &[u8], now: Option<&KeyValue>) {
        let Ok(key) = std::str::from_utf8(key) else {
            return;
        };
        if let Some(accessor) = key.strip_prefix(TOKENS) {
            self.forget_token(accessor);
            if let Some((item, token)) = parsed::<Token>(key, now) {
                self.put_token(accessor, token, item);
            }
        } else if let Some(id) = key.strip_prefix(POLICIES) {
            self.policies.remove(id);
            if let Some((item, policy)) = parsed::<Policy>(key, now) {
                self.put_policy(id, policy, item.create_revision.0, item.mod_revision.0);
            }
            self.forget_authorities();
        } else if let Some(id) = key.strip_prefix(ROLES) {
            self.roles.remove(id);
            if let Some((item, value)) = parsed::<Role>(key, now) {
                let kept = kept(value, item);
                self.roles.insert(id.to_owned(), kept);
            }
            self.forget_authorities();
        } else if key == BOOTSTRAPPED {
            self.bootstrapped = now.map(|item| item.mod_revision.0);
        }
    }

    fn put_token(&mut self, accessor: &str, token: Token, item: &KeyValue) {
        let hash = self.hasher.hash_one(&token.secret);
        let held = HeldToken {
            accessor: accessor.into(),
            kept: kept(token, item),
            authority: OnceLock::new(),
        };
        if accessor == ANONYMOUS {
            self.anonymous = held;
            return;
        }
        self.secrets
            .entry(hash)
            .or_default()
            .push(accessor.to_owned());
        self.tokens.insert(accessor.to_owned(), held);
    }

    fn forget_token(&mut self, accessor: &str) {
        if accessor == ANONYMOUS {
            self.anonymous = anonymous();
        }
        let Some(gone) = self.tokens.remove(accessor) else {
            return;
        };
        let hash = self.hasher.hash_one(&gone.kept.value.secret);
        if let Some(all) = self.secrets.get_mut(&hash) {
            all.retain(|known| known != accessor);
            if all.is_empty() {
                self.secrets.remove(&hash);
            }
        }
    }

    fn put_policy(&mut self, id: &str, policy: Policy, created: u64, modified: u64) {
        let rules = match rules::parse(&policy.rules) {
            Ok(rules) => Some(rules),
            Err(wrong) => {
                tracing::error!(policy = id, %wrong, "who has this policy may do nothing");
                None
            }
        };
        let kept = Kept {
            value: policy,
            created,
            modified,
        };
        self.policies
            .insert(id.to_owned(), HeldPolicy { kept, rules });
    }

    /// What tokens may do is worked out again: a policy or a role is another.
    fn forget_authorities(&mut self) {
        self.authorities = Mutex::default();
        for token in self.tokens.values_mut() {
            token.authority = OnceLock::new();
        }
        self.anonymous.authority = OnceLock::new();
    }

    pub(crate) fn anonymous(&self) -> &HeldToken {
        &self.anonymous
    }

    pub(crate) fn token(&self, accessor: &str) -> Option<&HeldToken> {
        match accessor {
            ANONYMOUS => Some(&self.anonymous),
            accessor => self.tokens.get(accessor),
        }
    }

    /// The token with this secret, unless it has expired.
    pub(crate) fn by_secret(&self, secret: &str, now_ms: u64) -> Option<&HeldToken> {
        let accessors = self.secrets.get(&self.hasher.hash_one(secret))?;
        let tokens = accessors
            .iter()
            .filter_map(|accessor| self.tokens.get(accessor));
        let mut found = tokens.filter(|token| {
            same_secret(secret.as_bytes(), token.kept.value.secret.as_bytes())
                && token.kept.value.expires_ms.is_none_or(|end| now_ms < end)
        });
        found.next()
    }

    /// What may be done with all rights there are.
    pub(crate) fn management(&self) -> Arc<Authority> {
        if let Some(known) = &self.authorities().management {
            return Arc::clone(known);
        }
        let links = Links {
            policies: vec![GLOBAL_MANAGEMENT.to_owned()],
            ..Links::default()
        };
        let made = self.authority_of(&[&links]);
        self.authorities().management = Some(Arc::clone(&made));
        made
    }

    /// What a token may do.
    pub(crate) fn authority(&self, token: &HeldToken) -> Arc<Authority> {
        let made = token.authority.get_or_init(|| {
            let token = &token.kept.value;
            let roles = token.roles.iter().filter_map(|id| self.roles.get(id));
            let mut links = vec![&token.links];
            links.extend(roles.map(|role| &role.value.links));
            self.authority_of(&links)
        });
        Arc::clone(made)
    }

    fn authority_of(&self, links: &[&Links]) -> Arc<Authority> {
        let mut sources = BTreeSet::new();
        for links in links {
            sources.extend(links.policies.iter().map(|id| format!("policy {id}")));
            let here = |datacenters: &[String]| {
                datacenters.is_empty() || datacenters.contains(&self.datacenter)
            };
            let services = links.services.iter().filter(|s| here(&s.datacenters));
            sources.extend(services.map(|service| format!("service {}", service.name)));
            let nodes = links
                .nodes
                .iter()
                .filter(|n| n.datacenter == self.datacenter);
            sources.extend(nodes.map(|node| format!("node {}", node.name)));
        }
        let mut shared = self.authorities();
        if let Some(known) = shared.known.get(&sources).and_then(Weak::upgrade) {
            return known;
        }
        // As many have gone as there is room: each is looked at once in a while.
        if shared.known.len() >= KNOWN_LEAST && shared.known.len() == shared.known.capacity() {
            shared.known.retain(|_, known| known.strong_count() > 0);
        }
        let id = 1 + LAST_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let made = Arc::new(match self.rules_of(&sources) {
            Some(rules) => Authority::new(id, self.default_allow, &rules),
            // A policy that nobody can read may have denied anything.
            None => Authority::new(id, false, &[]),
        });
        shared.known.insert(sources, Arc::downgrade(&made));
        made
    }

    fn authorities(&self) -> MutexGuard<'_, Authorities> {
        let shared = self.authorities.lock();
        shared.unwrap_or_else(PoisonError::into_inner)
    }

    /// All rules of these sources; of a policy that is gone there are none.
    fn rules_of(&self, sources: &BTreeSet<String>) -> Option<Vec<Rule>> {
        let mut all = Vec::new();
        for source in sources {
            let (kind, name) = source.split_once(' ')?;
            match kind {
                "policy" => {
                    let Some(policy) = self.policies.get(name) else {
                        continue;
                    };
                    let datacenters = &policy.kept.value.datacenters;
                    if datacenters.is_empty() || datacenters.contains(&self.datacenter) {
                        all.extend(policy.rules.as_ref()?.iter().cloned());
                    }
                }
                "service" => all.extend(rules::parse(&service_identity(name)).ok()?),
                _ => all.extend(rules::parse(&node_identity(name)).ok()?),
            }
        }
        Some(all)
    }
}

/// The token of those who send none, while nobody has given it any right.
fn anonymous() -> HeldToken {
    let token = Token {
        secret: super::stored::ANONYMOUS_SECRET.to_owned(),
        description: "Anonymous Token".to_owned(),
        ..Token::default()
    };
    HeldToken {
        accessor: ANONYMOUS.into(),
        kept: Kept {
            value: token,
            created: 1,
            modified: 1,
        },
        authority: OnceLock::new(),
    }
}

/// What a service identity stands for (Consul's documentation, "Service identities").
/// Names are held to be plain where they are taken.
fn service_identity(name: &str) -> String {
    format!(
        "service \"{name}\" {{ policy = \"write\" }}\n\
         service \"{name}-sidecar-proxy\" {{ policy = \"write\" }}\n\
         service_prefix \"\" {{ policy = \"read\" }}\n\
         node_prefix \"\" {{ policy = \"read\" }}"
    )
}

/// What a node identity stands for ("Node identities").
fn node_identity(name: &str) -> String {
    format!(
        "node \"{name}\" {{ policy = \"write\" }}\n\
         service_prefix \"\" {{ policy = \"read\" }}"
    )
}

fn kept<T>(value: T, item: &KeyValue) -> Kept<T> {
    Kept {
        value,
        created: item.create_revision.0,
        modified: item.mod_revision.0,
    }
}

fn parsed<'i, T: for<'de> serde::Deserialize<'de>>(
    key: &str,
    now: Option<&'i KeyValue>,
) -> Option<(&'i KeyValue, T)> {
    let item = now?;
    let value = read(&item.value);
    if value.is_none() {
        tracing::error!(key, "what stands here cannot be read and counts as absent");
    }
    Some((item, value?))
}
