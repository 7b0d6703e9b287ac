//! Executes requests: issues tokens, checks the credentials of calls, and serves the APIs.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::http::Response;
use super::{Place, Request, Shared, API_KEY, CLIENT_ID, CLIENT_SECRET};

/// The path of the token endpoint.
pub(super) const TOKEN_PATH: &str = "/oauth2/token";

const JSON: &str = "application/json";
const XML: &str = "application/xml";

/// Executes a request and returns its response.
pub(super) fn execute(request: &Request, shared: &Shared) -> Response {
    if request.place == Place::Token {
        return token(request, shared);
    }
    if let Some(refusal) = refusal(request, shared) {
        return refusal;
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let number = path.strip_prefix("/tracking/v1/shipments/");
    match (request.method.as_str(), path) {
        ("POST", "/tracking/v1/shipments") => track(request),
        ("GET", _) if number.is_some() => found(JSON, number.and_then(find)),
        ("POST", "/bookings/v1/bookings") => book(request, shared),
        ("GET", "/documents/v1/large") => match query.strip_prefix("bytes=").map(str::parse) {
            Some(Ok(n)) => {
                Response::stream(200, "application/octet-stream", n, io::repeat(b'.').take(n))
            }
            _ => message(400, JSON, "bytes is no number"),
        },
        _ => message(404, JSON, "no such resource"),
    }
}

fn token(request: &Request, shared: &Shared) -> Response {
    let refuse = |status, error: &str, description: &str| {
        let text = format!(r#"{{"error":"{error}","error_description":"{description}"}}"#);
        Response::new(status, JSON, text)
    };
    if request.method != "POST" {
        return refuse(405, "invalid_request", "POST only").with("Allow", "POST");
    }
    if media_type(request) != "application/x-www-form-urlencoded" {
        return refuse(400, "invalid_request", "Content-Type is not that of a form");
    }
    let value = |name| form_value(&request.content, name);
    if value("grant_type").as_deref() != Some("client_credentials") {
        return Response::new(400, JSON, r#"{"error":"unsupported_grant_type"}"#);
    }
    match (value("client_id"), value("client_secret")) {
        (None, _) => return refuse(401, "invalid_client", "no client_id"),
        (Some(id), Some(secret)) if id == CLIENT_ID && secret == CLIENT_SECRET => {}
        _ => return refuse(403, "invalid_client", "invalid credentials"),
    }

    let mut state = shared.lock();
    state.issued += 1;
    let random = || RandomState::new().build_hasher().finish();
    // Contains every kind of character that RFC 6750 allows in a token.
    let token = format!("{:016x}.{}_~+/-{:016x}==", random(), state.issued, random());
    let now = Instant::now();
    // `Instant + Duration::MAX` would panic; a year is enough.
    let expiry = now + state.lifetime.min(Duration::from_secs(365 * 86_400));
    state.tokens.retain(|(_, expiry)| *expiry > now);
    state.tokens.push((token.clone(), expiry));
    let expires_in = match &state.expires_in {
        None => format!(r#","expires_in":{}"#, state.lifetime.as_secs()),
        Some(json) if json.is_empty() => String::new(),
        Some(json) => format!(r#","expires_in":{json}"#),
    };
    let text = format!(r#"{{"access_token":"{token}","token_type":"Bearer"{expires_in}}}"#);
    Response::new(200, JSON, text).with("Cache-Control", "no-store")
}

/// Returns the response to a call that lacks a valid token or the API key.
fn refusal(request: &Request, shared: &Shared) -> Option<Response> {
    let given = request.field("Authorization").and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
    let Some((_, token)) = given else {
        let refusal = message(401, JSON, "Unauthorized");
        return Some(refusal.with("WWW-Authenticate", "Bearer"));
    };
    let now = Instant::now();
    let is_valid = |(known, expiry): &(String, Instant)| known == token && *expiry > now;
    if !shared.lock().tokens.iter().any(is_valid) {
        let refusal = message(401, JSON, "The access token is invalid or has expired");
        return Some(refusal.with("WWW-Authenticate", r#"Bearer error="invalid_token""#));
    }
    let knows_key = request.field("x-api-key") == Some(API_KEY);
    (!knows_key).then(|| message(403, JSON, "Forbidden"))
}

fn track(request: &Request) -> Response {
    let content = String::from_utf8_lossy(&request.content);
    let media_type = media_type(request);
    let number = match media_type.as_str() {
        JSON => member(&content, "shipmentNumber").or_else(|| member(&content, "houseBill")),
        XML if !content.contains("<ShipmentQuery") => None,
        XML => element(&content, "ShipmentNumber").or_else(|| element(&content, "HouseBill")),
        _ => return message(400, JSON, "Content-Type is neither JSON nor XML"),
    };
    match number {
        Some(number) => found(&media_type, find(number)),
        None => message(400, &media_type, "not a status query"),
    }
}

fn book(request: &Request, shared: &Shared) -> Response {
    let media_type = media_type(request);
    if media_type != JSON && media_type != XML {
        return message(400, JSON, "Content-Type is neither JSON nor XML");
    }
    let mut state = shared.lock();
    state.bookings += 1;
    let number = format!("B{}", 700_000_000 + state.bookings);
    drop(state);
    let text = object(&media_type, "booking", "bookingNumber", &[&number]);
    Response::new(201, &media_type, text)
}

fn found(media_type: &str, shipment: Option<&Shipment>) -> Response {
    let Some(Shipment(values, milestones, legs)) = shipment else {
        return message(404, media_type, "no shipment has this number");
    };
    let names = "shipmentNumber houseBill origin destination departure arrival";
    let values = members(media_type, names, values);
    let names = "code description time place";
    let milestones = list(media_type, "milestone", names, milestones);
    let names = "mode carrier from to departure arrival";
    let legs = list(media_type, "transportLeg", names, legs);
    let content = match media_type {
        XML => tag("shipment", &[values, milestones, legs].concat()),
        _ => format!("{{{values},{milestones},{legs}}}"),
    };
    Response::new(200, media_type, content)
}

fn message(status: u16, media_type: &str, text: &str) -> Response {
    let content = object(media_type, "error", "message", &[text]);
    Response::new(status, media_type, content)
}

/// Returns JSON members or XML elements, without the enclosing braces or tags. Nothing here needs
/// escaping. `names` are separated by spaces.
fn members(media_type: &str, names: &str, values: &[&str]) -> String {
    let pairs = names.split(' ').zip(values);
    if media_type == XML {
        return pairs.map(|(name, value)| tag(name, value)).collect();
    }
    let pairs = pairs.map(|(name, value)| format!(r#""{name}":"{value}""#));
    pairs.collect::<Vec<_>>().join(",")
}

fn object(media_type: &str, name: &str, names: &str, values: &[&str]) -> String {
    let members = members(media_type, names, values);
    match media_type {
        XML => tag(name, &members),
        _ => format!("{{{members}}}"),
    }
}

fn list<const N: usize>(media_type: &str, name: &str, names: &str, rows: &[[&str; N]]) -> String {
    let rows = rows.iter().map(|row| object(media_type, name, names, row));
    let rows: Vec<_> = rows.collect();
    match media_type {
        XML => tag(&format!("{name}s"), &rows.concat()),
        _ => format!(r#""{name}s":[{}]"#, rows.join(",")),
    }
}

/// An element. Its name is the name of the JSON member with a capital letter.
fn tag(name: &str, content: &str) -> String {
    let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
    format!("<{name}>{content}</{name}>")
}

/// The trimmed text of the first XML element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

/// The value of a member of a flat JSON object. It must not contain `,`, `:` or an escape.
fn member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let members = json.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut members = members.split(',').filter_map(|member| member.split_once(':'));
    let (_, value) = members.find(|(key, _)| unquoted(key) == Some(name))?;
    unquoted(value)
}

fn unquoted(json: &str) -> Option<&str> {
    json.trim().strip_prefix('"')?.strip_suffix('"')
}

/// The media type of a request's content, without parameters, in lower case.
fn media_type(request: &Request) -> String {
    let value = request.field("Content-Type").unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().to_ascii_lowercase()
}

/// A value from form content, decoded. `None` if it is missing or badly encoded.
fn form_value(content: &[u8], name: &str) -> Option<String> {
    let mut pairs = std::str::from_utf8(content).ok()?.split('&');
    let pairs = pairs.find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    let mut rest = pairs?.1.bytes();
    let mut value = Vec::new();
    while let Some(byte) = rest.next() {
        value.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(value).ok()
}

fn find(number: &str) -> Option<&'static Shipment> {
    SHIPMENTS.iter().find(|Shipment(values, ..)| values[..2].contains(&number))
}

/// A shipment: its values, milestones and transport legs, in the order of the names in [`found`].
struct Shipment([&'static str; 6], &'static [[&'static str; 4]], &'static [[&'static str; 6]]);

/// Invented data.
#[rustfmt::skip]
static SHIPMENTS: [Shipment; 5] = [
    Shipment(
        ["S505185992", "PAR45176295", "Paris CDG", "Atlanta ATL", "2026-03-02T10:25:00Z", "2026-03-02T20:10:00Z"],
        &[["PUP", "Picked up", "2026-02-27T14:05:00Z", "Roissy"],
          ["DEP", "Departed", "2026-03-02T10:25:00Z", "Paris CDG"],
          ["DLV", "Delivered", "2026-03-04T15:30:00Z", "Atlanta"]],
        &[["AIR", "AF 682", "Paris CDG", "Atlanta ATL", "2026-03-02T10:25:00Z", "2026-03-02T20:10:00Z"]],
    ),
    Shipment(
        ["S505186107", "MIL45176311", "Genova", "New York", "2026-02-19T22:00:00Z", "2026-03-09T06:00:00Z"],
        &[["DEP", "Departed", "2026-02-19T22:35:00Z", "Genova"],
          ["CUS", "Customs cleared", "2026-03-10T13:15:00Z", "New York"]],
        &[["ROAD", "JAS", "Milano", "Genova", "2026-02-18T05:30:00Z", "2026-02-18T08:10:00Z"],
          ["SEA", "AURELIA 608W", "Genova", "New York", "2026-02-19T22:00:00Z", "2026-03-09T06:00:00Z"]],
    ),
    Shipment(
        ["S505186240", "SHA45176420", "Shanghai", "Hamburg", "2026-02-08T16:00:00Z", "2026-03-14T04:00:00Z"],
        &[["DEP", "Departed", "2026-02-08T17:10:00Z", "Shanghai"],
          ["TRS", "Transshipped", "2026-02-24T03:00:00Z", "Singapore"]],
        &[["SEA", "ORION BAY 114S", "Shanghai", "Singapore", "2026-02-08T16:00:00Z", "2026-02-22T07:00:00Z"],
          ["SEA", "ELBE STAR 031W", "Singapore", "Hamburg", "2026-02-24T12:00:00Z", "2026-03-14T04:00:00Z"]],
    ),
    Shipment(
        ["S505186355", "GOT45176533", "Göteborg", "Chicago ORD", "2026-03-05T07:45:00Z", "2026-03-05T19:20:00Z"],
        &[["DEP", "Departed", "2026-03-05T07:52:00Z", "Göteborg"]],
        &[["AIR", "SK 1432", "Göteborg", "København", "2026-03-05T07:45:00Z", "2026-03-05T08:35:00Z"],
          ["AIR", "SK 943", "København", "Chicago ORD", "2026-03-05T10:40:00Z", "2026-03-05T19:20:00Z"]],
    ),
    Shipment(
        ["S505186418", "SAO45176607", "Santos", "Rotterdam", "2026-03-11T18:00:00Z", "2026-03-29T05:00:00Z"],
        &[["BKD", "Booking confirmed", "2026-03-01T12:00:00Z", "Santos"]],
        &[["SEA", "RIO NEGRO 220N", "Santos", "Rotterdam", "2026-03-11T18:00:00Z", "2026-03-29T05:00:00Z"]],
    ),
];
