//! What the server tells, as far as it tells it: older and newer versions leave out, or add.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// `/api/status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "lenient")]
    pub(super) version: Option<String>,
    /// The server's clock, in unix seconds.
    #[serde(deserialize_with = "lenient")]
    pub(super) time: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) uptime: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) lifecycle: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) mode: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) level: Option<String>,
    /// Seconds for which the level is still held by hand.
    #[serde(rename = "override", deserialize_with = "lenient")]
    pub(super) overridden: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) share: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) throttled: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) dropped: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) hold_left: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) assigned: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) connections: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) in_flight: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) bytes_sent: Option<f64>,
    #[serde(deserialize_with = "each")]
    pub(super) signals: Vec<Signal>,
    #[serde(deserialize_with = "each")]
    pub(super) servers: Vec<Server>,
    #[serde(deserialize_with = "each")]
    pub(super) classes: Vec<Class>,
    #[serde(deserialize_with = "each")]
    pub(super) discovery: Vec<Source>,
    /// Since start, by outcome.
    #[serde(deserialize_with = "numbers")]
    pub(super) requests: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Signal {
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) load: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) offload: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) throttle: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) drop: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) off: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) load: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) threshold: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) health: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) usable: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) assigned: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) cost: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) spent: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) pages_scanned: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) pages_spliced: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) price: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) budget: Option<Budget>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Budget {
    pub(super) amount: f64,
    pub(super) per: String,
}

/// One of `throttle.classes`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Class {
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) part: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) throttled: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) dropped: Option<f64>,
}

/// Where servers are found beside the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) what: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) error: Option<String>,
}

/// One of `/api/decisions`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Decision {
    /// Unix seconds.
    #[serde(deserialize_with = "lenient")]
    pub(super) time: Option<f64>,
    pub(super) text: String,
}

/// The decisions that can be read, oldest first.
pub(super) fn decisions(answer: &Value) -> Vec<Decision> {
    items(&answer["decisions"])
}

fn items<T: DeserializeOwned>(list: &Value) -> Vec<T> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|item| T::deserialize(item).ok()).collect()
}

/// Nothing where something else than expected stands.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).ok())
}

/// Those of a list that can be read.
fn each<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(items(&Value::deserialize(deserializer)?))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let entries = value.as_object().into_iter().flatten();
    Ok(entries
        .filter_map(|(name, number)| Some((name.clone(), number.as_f64()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_or_odd_hides_nothing_else() {
        let status: Status = serde_json::from_value(json!({
            "level": "offload", "share": "much", "override": null, "new": [1],
            "signals": [{ "name": "cpu", "load": 0.5 }, 7],
            "servers": null, "requests": { "served": 3, "new": "?" },
        }))
        .unwrap();
        assert_eq!(status.level.as_deref(), Some("offload"));
        assert_eq!((status.share, status.overridden), (None, None));
        assert_eq!((status.signals.len(), status.servers.len()), (1, 0));
        assert_eq!(status.requests, [("served".to_owned(), 3.0)].into());
    }
}
