//! `/v1/coordinate`: where nodes are in the network, as far as somebody told.
//!
//! Consul's agents measure it; here it is kept for those who do so themselves (as
//! consul-esm for foreign nodes). Our own node is at the origin, as a Consul alone is.

use std::collections::BTreeMap;

use atoll_store::Span;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::keys::{COORDINATES, COORDINATES_MARK};
use crate::server::{Answer, Asked, Front};
use crate::wire::{Fields, Refusal, Reply};

/// Serf's `DefaultConfig().Dimensionality`.
const DIMENSIONS: usize = 8;
/// Serf's `VivaldiErrorMax`: that of a coordinate which nobody measured.
const ERROR_MAX: f64 = 1.5;

/// What there is below `coordinate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Datacenters,
    Nodes,
    Node(String),
    Update,
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        match parts {
            ["datacenters"] => Some(Self::Datacenters),
            ["nodes"] => Some(Self::Nodes),
            ["node", name] => Some(Self::Node((*name).to_owned())),
            ["update"] => Some(Self::Update),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Update => &[Method::PUT],
            Self::Datacenters | Self::Nodes | Self::Node(_) => &[Method::GET],
        }
    }
}

fn origin() -> Value {
    json!({
        "Adjustment": 0,
        "Error": ERROR_MAX,
        "Height": 0,
        "Vec": vec![0; DIMENSIONS],
    })
}

impl Front {
    pub(crate) async fn coordinate(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Datacenters => Ok(self.coordinate_datacenters().into()),
            Endpoint::Nodes => self.coordinate_nodes(None, asked).await,
            Endpoint::Node(node) => self.coordinate_nodes(Some(&node), asked).await,
            Endpoint::Update => self.coordinate_update(asked).await,
        }
    }

    fn coordinate_datacenters(&self) -> Reply {
        let node = format!("{}.{}", self.node.name, self.node.datacenter);
        Reply::json(vec![json!({
            "Datacenter": self.node.datacenter,
            "AreaID": "wan",
            "Coordinates": [{ "Node": node, "Segment": "", "Coord": origin() }],
        })])
    }

    /// Those of all nodes that have one, or of one, without which it is 404.
    async fn coordinate_nodes(&self, only: Option<&str>, asked: &Asked) -> Result<Answer, Refusal> {
        let span = Span::prefix(COORDINATES);
        let found = self.keys(span, COORDINATES_MARK, asked).await?;
        let mut all = BTreeMap::from([(self.node.name.clone(), origin())]);
        for kept in &found.items {
            let name = kept.key.strip_prefix(COORDINATES.as_bytes());
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            if let Ok(coordinate) = serde_json::from_slice(&kept.value) {
                all.insert(name, coordinate);
            }
        }
        // There is but the segment without a name.
        let elsewhere = asked
            .query
            .get("segment")
            .is_some_and(|name| !name.is_empty());
        let rows: Vec<Value> = all
            .into_iter()
            .filter(|(name, _)| !elsewhere && only.is_none_or(|only| only == name))
            .map(|(name, coord)| json!({ "Node": name, "Segment": "", "Coord": coord }))
            .collect();
        match only.is_some() && rows.is_empty() {
            true => Ok(Answer::at(found.index, Reply::Absent)),
            false => Ok(Answer::at(found.index, Reply::json(rows))),
        }
    }

    async fn coordinate_update(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let fields = Fields::of_body(&asked.body)?;
        let (node, segment) = (fields.text("node")?, fields.text("segment")?);
        let failed = |text: &str| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        if !segment.is_empty() {
            return Err(Refusal::bad(
                "Invalid Segment: segments need Consul Enterprise",
            ));
        }
        if !self.nodes().await?.contains_key(&node) {
            return Err(failed(
                "Coordinate update for a node that is not registered",
            ));
        }
        let coord = fields.object("coord")?.unwrap_or_default();
        let number = |key| -> Result<f64, Refusal> {
            match coord.raw(key) {
                None => Ok(0.0),
                Some(value) => value.as_f64().ok_or_else(|| failed("invalid coordinate")),
            }
        };
        let vector = coord.raw("vec").and_then(Value::as_array);
        let vector: Option<Vec<f64>> =
            vector.and_then(|list| list.iter().map(Value::as_f64).collect());
        // Consul refuses what it cannot reckon with.
        let vector = vector.filter(|vector| vector.len() == DIMENSIONS);
        let vector =
            vector.ok_or_else(|| failed("incompatible coordinate: Vec has not 8 numbers"))?;
        let kept = json!({
            "Adjustment": number("adjustment")?,
            "Error": number("error")?,
            "Height": number("height")?,
            "Vec": vector,
        });
        let key = format!("{COORDINATES}{node}");
        self.store.put(key, kept.to_string()).await?;
        Ok(Reply::Nothing.into())
    }
}
