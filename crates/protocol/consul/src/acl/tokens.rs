//! `/v1/acl/bootstrap`, `/v1/acl/token` and `/v1/acl/tokens`.

use std::time::Duration;

use atoll_store::{Op, Span, StoreError};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::caller::Who;
use super::endpoints::{absent, content_hash, given_id, linked, links, new_id, show_links};
use super::rules::{Access, Resource};
use super::state::{HeldToken, Kept, State};
use super::stored::{ANONYMOUS, ANONYMOUS_SECRET, GLOBAL_MANAGEMENT, Links, MANAGEMENT, Token};
use super::{Acl, BOOTSTRAPPED, TOKENS, roles, time};
use crate::server::{Answer, Asked};
use crate::stored::write;
use crate::wire::{Fields, Refusal, Reply};

/// Tokens at all: each is kept in memory by every process.
const TOKENS_MAX: usize = 100_000;
/// Consul's `acl_token_min_expiration_ttl` and its `max`.
const TTL_LEAST: Duration = Duration::from_secs(60);
const TTL_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// Shown in place of a secret that is none of the asker's business.
const HIDDEN: &str = "<hidden>";

impl Acl {
    /// Makes the first token. Whoever comes first gets it, as in Consul; so it is no more
    /// to be had once the config file names one.
    pub(super) async fn bootstrap(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let over = |index: u64| {
            let text = format!(
                "Permission denied: ACL bootstrap no longer allowed (reset index: {index})"
            );
            Refusal::new(StatusCode::FORBIDDEN, text)
        };
        if self.settings.management.is_some() {
            return Err(over(1));
        }
        let fields = Fields::of_body(&asked.body)?;
        let (accessor, mut secret) = (new_id()?, fields.text("bootstrapsecret")?);
        if secret.is_empty() {
            secret = new_id()?;
        }
        given_id("BootstrapSecret", &secret)?;
        let token = Token {
            secret,
            description: "Bootstrap Token (Global Management)".to_owned(),
            links: Links {
                policies: vec![GLOBAL_MANAGEMENT.to_owned()],
                ..Links::default()
            },
            created_ms: self.clock.wall_unix_ms(),
            ..Token::default()
        };
        let put = |state: &State| {
            if let Some(index) = state.bootstrapped {
                return Err(over(index));
            }
            free(state, &accessor, &token.secret)?;
            let puts = vec![
                Op::put(BOOTSTRAPPED, ""),
                Op::put(format!("{TOKENS}{accessor}"), write(&token)),
            ];
            Ok((puts, ()))
        };
        let ((), revision) = self.change(put).await?;
        let kept = new(token.clone(), revision);
        let mut shown = shown(&accessor, &kept, &self.read(), true);
        // Where clients older than 1.4 look for it.
        shown["ID"] = json!(token.secret);
        Ok(Reply::json(shown).into())
    }

    pub(super) async fn tokens(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let index = self.settled(asked).await;
        let secrets = sees_secrets(&asked.caller.who()?);
        let wanted = |key: &str| asked.query.get(key).filter(|text| !text.is_empty());
        let (policy, role) = (wanted("policy"), wanted("role"));
        let (service, method) = (wanted("servicename"), wanted("authmethod"));
        let state = self.read();
        let now_ms = self.clock.wall_unix_ms();
        let chosen = |token: &HeldToken| {
            let token = &token.kept.value;
            token.expires_ms.is_none_or(|end| now_ms < end)
                && policy.is_none_or(|id| token.links.policies.iter().any(|known| known == id))
                && role.is_none_or(|id| token.roles.iter().any(|known| known == id))
                && service
                    .is_none_or(|name| token.links.services.iter().any(|known| known.name == name))
                // No token comes from an auth method: there are none.
                && method.is_none()
        };
        let kept = state.tokens.values().chain([state.anonymous()]);
        let kept = kept.filter(|token| chosen(token));
        let mut all: Vec<Value> = kept
            .map(|token| shown(&token.accessor, &token.kept, &state, secrets))
            .collect();
        let management = self.management();
        if let Some(token) = management.filter(|_| role.or(service).or(method).is_none())
            && policy.is_none_or(|id| id == GLOBAL_MANAGEMENT)
        {
            all.push(shown(MANAGEMENT, &token, &state, false));
        }
        Ok(Answer::at(index, Reply::json(all)))
    }

    /// The token of the config file, as one that is kept would be shown. Its secret opens
    /// more than Consul's API, so that nobody is shown it.
    fn management(&self) -> Option<Kept<Token>> {
        self.settings.management.as_ref()?;
        let token = Token {
            description: "Initial Management Token (admin_token of the config file)".to_owned(),
            links: Links {
                policies: vec![GLOBAL_MANAGEMENT.to_owned()],
                ..Links::default()
            },
            ..Token::default()
        };
        Some(new(token, 1))
    }

    /// Needs no right: whoever asks has the secret.
    pub(super) fn token_self(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let who = asked.caller.who()?;
        self.token_shown(&who.accessor, true)
    }

    pub(super) fn token_read(&self, accessor: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if asked.query.has("expanded") {
            return Err(Refusal::unsupported("?expanded"));
        }
        self.token_shown(accessor, sees_secrets(&asked.caller.who()?))
    }

    fn token_shown(&self, accessor: &str, secret: bool) -> Result<Answer, Refusal> {
        let state = self.read();
        let shown = if accessor == MANAGEMENT {
            let token = self.management().ok_or_else(|| absent("token"))?;
            shown(accessor, &token, &state, false)
        } else {
            let token = state.token(accessor).filter(|token| {
                let end = token.kept.value.expires_ms;
                end.is_none_or(|end| self.clock.wall_unix_ms() < end)
            });
            let token = token.ok_or_else(|| absent("token"))?;
            shown(accessor, &token.kept, &state, secret)
        };
        Ok(Answer::at(state.index, Reply::json(shown)))
    }

    pub(super) async fn token_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let id = |key: &str, what: &str| match &fields.text(key)?[..] {
            "" => new_id(),
            given => given_id(what, given).map(|()| given.to_owned()),
        };
        let accessor = id("accessorid", "AccessorID")?;
        let secret = id("secretid", "SecretID")?;
        let created_ms = self.clock.wall_unix_ms();
        let token = Token {
            secret,
            description: fields.text("description")?,
            local: fields.flag("local")?,
            created_ms,
            expires_ms: expiration(&fields, created_ms)?,
            ..Token::default()
        };
        let rights = |state: &State, token: &mut Token| {
            token.links = links(&fields, state)?;
            token.roles = linked_roles(&fields, state)?;
            Ok(())
        };
        self.token_put(accessor, token, rights).await
    }

    pub(super) async fn token_clone(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if id == ANONYMOUS || id == MANAGEMENT {
            let text = "Cannot clone the anonymous token, nor that of the config file";
            return Err(Refusal::bad(text));
        }
        let fields = Fields::of_body(&asked.body)?;
        let (accessor, secret) = (new_id()?, new_id()?);
        let description = fields.text("description")?;
        let of = |state: &State| {
            let original = state.tokens.get(id).ok_or_else(|| absent("token"))?;
            Ok::<_, Refusal>(original.kept.value.clone())
        };
        let original = of(&self.read())?;
        let token = Token {
            secret,
            description: match description.is_empty() {
                true => original.description.clone(),
                false => description,
            },
            created_ms: self.clock.wall_unix_ms(),
            lease: None,
            ..original
        };
        let rights = |state: &State, token: &mut Token| {
            let original = of(state)?;
            token.links = original.links;
            token.roles = original.roles;
            Ok(())
        };
        self.token_put(accessor, token, rights).await
    }

    /// Keeps a new token, with the rights that `rights` gives it.
    async fn token_put(
        &self,
        accessor: String,
        mut token: Token,
        rights: impl Fn(&State, &mut Token) -> Result<(), Refusal>,
    ) -> Result<Answer, Refusal> {
        // What is refused anyway needs no lease.
        rights(&self.read(), &mut token)?;
        let mut lease = None;
        if let Some(end) = token.expires_ms {
            let ttl = Duration::from_millis(end.saturating_sub(self.clock.wall_unix_ms()));
            // Leases count in seconds; until then nobody takes the token any more.
            let ttl = Duration::from_secs(ttl.as_secs() + 1);
            lease = Some(self.store.grant(ttl).await?.id);
            token.lease = lease.map(|lease| lease.0);
        }
        let put = |state: &State| {
            if state.tokens.len() >= TOKENS_MAX {
                let text = format!("Invalid Token: there are {TOKENS_MAX} already");
                return Err(Refusal::bad(text));
            }
            free(state, &accessor, &token.secret)?;
            if self.is_management(&token.secret) {
                return Err(Refusal::bad("Invalid Token: SecretID is already in use"));
            }
            let mut token = token.clone();
            rights(state, &mut token)?;
            let put = Op::Put {
                key: format!("{TOKENS}{accessor}").into(),
                value: write(&token).into(),
                lease,
            };
            Ok((vec![put], token))
        };
        let changed = self.change(put).await;
        let (token, revision) = match (changed, lease) {
            (Ok(changed), _) => changed,
            (Err(refusal), None) => return Err(refusal),
            (Err(refusal), Some(lease)) => {
                // Left alone it would end by itself.
                drop(self.store.revoke(lease).await);
                return Err(refusal);
            }
        };
        let shown = shown(&accessor, &new(token, revision), &self.read(), true);
        Ok(Reply::json(shown).into())
    }

    fn is_management(&self, secret: &str) -> bool {
        let known = self.settings.management.as_ref();
        known
            .is_some_and(|known| atoll_net::guard::same_secret(secret.as_bytes(), known.as_bytes()))
    }

    pub(super) async fn token_update(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let given = fields.text("accessorid")?;
        if !given.is_empty() && given != id {
            let text = "Token Accessor ID in URL and payload do not match";
            return Err(Refusal::bad(text));
        }
        if id == MANAGEMENT {
            let text = "the token of the config file is changed there (admin_token)";
            return Err(Refusal::bad(text));
        }
        let put = |state: &State| {
            let known = state.token(id).ok_or_else(|| absent("token"))?;
            let was = &known.kept.value;
            unchanged(&fields, was, id)?;
            let token = Token {
                description: fields.text("description")?,
                links: links(&fields, state)?,
                roles: linked_roles(&fields, state)?,
                ..was.clone()
            };
            let put = Op::Put {
                key: format!("{TOKENS}{id}").into(),
                value: write(&token).into(),
                lease: token.lease.map(atoll_store::LeaseId),
            };
            Ok((vec![put], (token, known.kept.created)))
        };
        let ((value, created), modified) = self.change(put).await?;
        let kept = Kept {
            value,
            created,
            modified,
        };
        Ok(Reply::json(shown(id, &kept, &self.read(), true)).into())
    }

    pub(super) async fn token_delete(&self, id: &str, who: &Who) -> Result<Answer, Refusal> {
        let refused = match id {
            ANONYMOUS => Some("Delete operation not permitted on the anonymous token"),
            MANAGEMENT => Some("the token of the config file is taken away there (admin_token)"),
            id if *id == *who.accessor => {
                Some("Deletion of the request's authorization token is not permitted")
            }
            _ => None,
        };
        if let Some(text) = refused {
            return Err(Refusal::bad(text));
        }
        let delete = |state: &State| {
            let known = state.tokens.get(id).ok_or_else(|| absent("token"))?;
            let key = format!("{TOKENS}{id}");
            Ok((
                vec![Op::Delete(Span::Key(key.into()))],
                known.kept.value.lease,
            ))
        };
        let (lease, _) = self.change(delete).await?;
        if let Some(lease) = lease {
            match self.store.revoke(atoll_store::LeaseId(lease)).await {
                Ok(_) | Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Reply::json(true).into())
    }
}

fn sees_secrets(who: &Who) -> bool {
    who.authority.allows(Resource::Acl, "", Access::Write)
}

fn new(value: Token, revision: u64) -> Kept<Token> {
    Kept {
        value,
        created: revision,
        modified: revision,
    }
}

fn linked_roles(fields: &Fields, state: &State) -> Result<Vec<String>, Refusal> {
    let known = |id: &str| state.roles.contains_key(id);
    linked(fields, "roles", "role", known, |name| {
        roles::named(state, name)
    })
}

/// Refuses ids that others have.
fn free(state: &State, accessor: &str, secret: &str) -> Result<(), Refusal> {
    if state.tokens.contains_key(accessor) {
        return Err(Refusal::bad("Invalid Token: AccessorID is already in use"));
    }
    // One that has expired is there until its lease ends.
    if secret == ANONYMOUS_SECRET || state.by_secret(secret, 0).is_some() {
        return Err(Refusal::bad("Invalid Token: SecretID is already in use"));
    }
    Ok(())
}

/// When a new token is to end.
fn expiration(fields: &Fields, now_ms: u64) -> Result<Option<u64>, Refusal> {
    let ttl = fields
        .duration("expirationttl")?
        .filter(|ttl| !ttl.is_zero());
    let time = fields.text("expirationtime")?;
    let end = match (ttl, &time[..]) {
        (None, "") => return Ok(None),
        (Some(ttl), "") => now_ms + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2),
        (None, time) => time::parsed(time).ok_or_else(|| {
            let text = format!("Token decoding failed: ExpirationTime {time:?} is no RFC 3339");
            Refusal::bad(text)
        })?,
        (Some(_), _) => {
            let text = "Invalid Token: Expiration TTL and Expiration Time cannot both be set";
            return Err(Refusal::bad(text));
        }
    };
    let left = Duration::from_millis(end.saturating_sub(now_ms));
    if !(TTL_LEAST..=TTL_MOST).contains(&left) {
        let text = format!(
            "Invalid Token: a token expires between 1m0s and 24h0m0s from now, not in {}",
            crate::wire::go_duration(left)
        );
        return Err(Refusal::bad(text));
    }
    Ok(Some(end))
}

/// Refuses to change what a token keeps for life.
fn unchanged(fields: &Fields, was: &Token, id: &str) -> Result<(), Refusal> {
    let secret = fields.text("secretid")?;
    let hidden = secret.is_empty() || secret == HIDDEN;
    if !hidden && !atoll_net::guard::same_secret(secret.as_bytes(), was.secret.as_bytes()) {
        let text = "Invalid Token: Changing a token's SecretID is not permitted";
        return Err(Refusal::bad(text));
    }
    if fields.has("local") && fields.flag("local")? != was.local {
        let text = format!("Invalid Token: cannot toggle local mode of {id}");
        return Err(Refusal::bad(text));
    }
    let ttl = fields
        .duration("expirationttl")?
        .filter(|ttl| !ttl.is_zero());
    let time = fields.text("expirationtime")?;
    if ttl.is_some() || (!time.is_empty() && time::parsed(&time) != was.expires_ms) {
        let text = format!("Invalid Token: Cannot change expiration time of {id}");
        return Err(Refusal::bad(text));
    }
    Ok(())
}

fn shown(accessor: &str, kept: &Kept<Token>, state: &State, secret: bool) -> Value {
    let token = &kept.value;
    let mut shown = Map::new();
    shown.insert("AccessorID".to_owned(), json!(accessor));
    let secret = if secret { &token.secret } else { HIDDEN };
    shown.insert("SecretID".to_owned(), json!(secret));
    shown.insert("Description".to_owned(), json!(token.description));
    show_links(&mut shown, &token.links, state);
    let roles = token.roles.iter().filter_map(|id| {
        let name = &state.roles.get(id)?.value.name;
        Some(json!({ "ID": id, "Name": name }))
    });
    let roles: Vec<Value> = roles.collect();
    if !roles.is_empty() {
        shown.insert("Roles".to_owned(), roles.into());
    }
    shown.insert("Local".to_owned(), json!(token.local));
    if let Some(end) = token.expires_ms {
        shown.insert("ExpirationTime".to_owned(), json!(time::shown(end)));
    }
    let created = time::shown(token.created_ms);
    shown.insert("CreateTime".to_owned(), json!(created));
    // Nothing of the secret: who may not see it sees this.
    let content = (&token.description, &token.links, &token.roles, token.local);
    shown.insert("Hash".to_owned(), json!(content_hash(&content)));
    shown.insert("CreateIndex".to_owned(), json!(kept.created));
    shown.insert("ModifyIndex".to_owned(), json!(kept.modified));
    shown.into()
}
