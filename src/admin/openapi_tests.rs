//! The description says what the API does: all of its routes and no other, and every answer of every test of the routes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::openapi::DESCRIPTION;
use super::tests::Fixture;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(DESCRIPTION).unwrap());

/// Where routes are made.
const SOURCES: [&str; 3] = [include_str!("routes.rs"), include_str!("door.rs"), include_str!("certificates.rs")];
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Every method and path of the document.
fn described() -> BTreeSet<(String, String)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let operations = paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone())));
    operations.collect()
}

/// Every method and path of `.route("PATH", get(..).post(..))`.
fn routed() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for source in SOURCES {
        for call in source.split(".route(").skip(1) {
            let call = call.trim_start();
            let (path, methods) = call.strip_prefix('"').and_then(|rest| rest.split_once('"')).expect("a literal path");
            let methods = methods.split([';', '\n']).next().unwrap();
            let before = found.len();
            for method in METHODS {
                if methods.contains(&format!(" {method}(")) || methods.contains(&format!(".{method}(")) {
                    found.insert((method.to_owned(), path.to_owned()));
                }
            }
            assert!(found.len() > before || path.starts_with("/crl"), "no method of {path} was found");
        }
    }
    found
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let (described, routed) = (described(), routed());
    assert!(routed.len() > 35, "the routes were not found");
    let missing: Vec<_> = routed.difference(&described).collect();
    assert!(missing.is_empty(), "add to openapi.json: {missing:?}");
    let gone: Vec<_> = described.difference(&routed).collect();
    assert!(gone.is_empty(), "there is no such route any more: {gone:?}");
}

/// Asked for, none of them is unknown. (What devices ask for is not on the socket.)
#[tokio::test]
async fn every_described_operation_is_answered() {
    let fixture = Fixture::start();
    for (method, path) in described() {
        let operation = &DOCUMENT["paths"][&path][&method];
        if operation["tags"] == json!(["enrolment"]) || path.ends_with("/events") {
            continue;
        }
        let path = path
            .replace("{name}", "nobody")
            .replace("{id}", "0190163d-8694-739b-aea5-966c26f8ad93")
            .replace("{serial}", "ab")
            .replace("{issuer}", "ab");
        let reply = fixture.call(&method.to_uppercase(), &path, Value::Null).await;
        assert_ne!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let told = reply.body["detail"].as_str().unwrap_or_default();
        assert!(!told.starts_with("there is nothing at"), "{method} {path}: {told}");
    }
    let served = fixture.ok("GET", "/api/openapi.json", Value::Null).await;
    assert_eq!(served, *DOCUMENT);
}

#[test]
fn the_description_is_of_this_version_and_consistent() {
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut ids = BTreeSet::new();
    for (method, path) in described() {
        let operation = &DOCUMENT["paths"][&path][&method];
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation} has another one's id");
        let problem = operation["responses"]["default"].to_string();
        assert!(problem.contains("Problem"), "{method} {path} has no problem details");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for name in path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()) {
            assert!(parameters.iter().any(|it| it["name"] == name && it["in"] == "path"), "{method} {path}: {name}");
        }
    }
    // Each reference leads somewhere, and each schema is used.
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let text = DESCRIPTION.replace(' ', "");
    let used: BTreeSet<_> =
        text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let defined: BTreeSet<_> = schemas.keys().map(String::as_str).collect();
    assert_eq!(used, defined);
}

/// Panics when this exchange is not as the document says.
pub(super) fn check(method: &str, path: &str, body: &Value, (status, answer): (StatusCode, &Value)) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if status.as_u16() >= 400 {
        let problem = json!({ "$ref": "#/components/schemas/Problem" });
        return hold(&problem, answer, &format!("{method} {path} {status}"));
    }
    let segments: Vec<_> = path.split('/').collect();
    let fits = |template: &str| {
        let pieces: Vec<_> = template.split('/').collect();
        pieces.len() == segments.len()
            && pieces.iter().zip(&segments).all(|(piece, segment)| piece == segment || piece.starts_with('{'))
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let template = paths.keys().find(|key| *key == path).or_else(|| paths.keys().find(|key| fits(key)));
    let operation = &paths[template.unwrap_or_else(|| panic!("{path} is not described"))][method.to_lowercase()];
    let what = format!("{method} {path} {status}");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap();
        let known = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == name));
        assert!(known, "{what}: the parameter {name} is not described");
    }
    if !body.is_null() {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(!schema.is_null(), "{what}: it is not described that there is a body");
        hold(schema, body, &format!("{what}, what was asked"));
    }
    let response = &operation["responses"][status.as_str()];
    assert!(!response.is_null(), "{what}: this status is not described");
    let schema = &response["content"]["application/json"]["schema"];
    if !schema.is_null() {
        hold(schema, answer, &what);
    }
}

fn hold(schema: &Value, value: &Value, what: &str) {
    if let Err(why) = validate(schema, value) {
        panic!("{what} is not as openapi.json says: {why}\n{value:#}");
    }
}

/// What of JSON Schema the document uses; stricter in one thing: what is not named is not admitted, unless that is said.
fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        return validate(target, value);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let refusals: Vec<_> = any.iter().map(|one| validate(one, value)).collect();
        if refusals.iter().any(Result::is_ok) {
            return Ok(());
        }
        return Err(refusals.into_iter().filter_map(Result::err).collect::<Vec<_>>().join(", and "));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let admits = |admitted: &Value| admitted == kind || (admitted == "number" && kind == "integer");
    let right = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(admits),
        one => admits(one),
    };
    if !right {
        return Err(format!("{value} is no {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|admitted| !admitted.contains(value)) {
        return Err(format!("{value} is none of {}", schema["enum"]));
    }
    let beyond = |limit: &str, over: fn(i64, i64) -> bool| {
        schema[limit].as_i64().zip(value.as_i64()).is_some_and(|(limit, value)| over(value, limit))
    };
    if beyond("minimum", |value, limit| value < limit) || beyond("maximum", |value, limit| value > limit) {
        return Err(format!("{value} is out of range"));
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        validate(&schema["items"], item).map_err(|why| format!("[{number}]: {why}"))?;
    }
    let Some(object) = value.as_object().filter(|_| schema["properties"].is_object()) else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            return Err(format!("`{name}` is missing"));
        }
    }
    for (name, member) in object {
        match &schema["properties"][name] {
            Value::Null if schema["additionalProperties"] == true => {}
            Value::Null => return Err(format!("`{name}` is not described")),
            described => validate(described, member).map_err(|why| format!("{name}: {why}"))?,
        }
    }
    Ok(())
}

#[test]
fn what_is_not_as_described_is_found() {
    let role = json!({ "$ref": "#/components/schemas/NewRole" });
    let permission = json!({ "context": "mqtt", "operation": "read", "resource": "a", "max_qos": 1 });
    let good = json!({ "name": "line", "permissions": [permission] });
    validate(&role, &good).unwrap();
    for (pointer, wrong) in [
        ("/name", json!(7)),
        ("/permissions/0/context", json!("udp")),
        ("/permissions/0/max_qos", json!(3)),
        ("/permissions/0", json!({ "context": "mqtt", "operation": "read" })),
        ("/permissions/0", json!({ "context": "mqtt", "operation": "read", "resource": "a", "colour": "red" })),
        ("/permissions", Value::Null),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = wrong;
        validate(&role, &bad).unwrap_err();
    }
}
