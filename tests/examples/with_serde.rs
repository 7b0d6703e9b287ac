//! JSON with `serde_json` in both directions, and XML with `quick-xml`, which need
//! `serde = { version = "1", features = ["derive"] }`, `serde_json = "1"` and
//! `quick-xml = { version = "0.38", features = ["serialize"] }` in Cargo.toml.
//!
//! ```text
//! with_serde REFERENCE
//! ```
//!
//! Books freight under this reference, and tracks two shipments; `cargo run --example sandbox` is a
//! stand-in for JAS. The names of the members are the stand-in's, because JAS publishes none.

use std::{env, error::Error, process};

use jas_session::Session;
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Booking {
    reference: String,
    pieces: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Booked {
    booking_number: String,
}

#[derive(Deserialize)]
struct Shipment {
    #[serde(rename = "shipmentNumber")]
    number: String,
    arrival: Option<String>,
    #[serde(default)]
    milestones: Vec<serde_json::Value>,
}

/// The same in XML.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct XmlShipment {
    #[serde(rename = "ShipmentNumber")]
    number: String,
    arrival: Option<String>,
    milestones: XmlMilestones,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct XmlMilestones {
    #[serde(default)]
    milestone: Vec<XmlMilestone>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct XmlMilestone {
    description: String,
}

#[derive(Serialize)]
#[serde(rename = "ShipmentQuery", rename_all = "PascalCase")]
struct XmlQuery<'a> {
    house_bill: &'a str,
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [reference] = &arguments[..] else {
        eprintln!("usage: with_serde REFERENCE (books freight under this reference)");
        process::exit(2);
    };
    if let Err(error) = run(reference) {
        eprintln!("error: {error:#}");
        process::exit(1);
    }
}

fn run(reference: &str) -> Result<(), Box<dyn Error>> {
    let session = Session::from_env()?;

    let booking = Booking { reference: reference.to_owned(), pieces: 3 };
    let json = serde_json::to_vec(&booking)?;
    let response = session.post("/bookings/v1/bookings", "application/json", json)?;
    // The booking is not lost if its JSON has another shape.
    let content = response.bytes()?;
    match serde_json::from_slice::<Booked>(&content) {
        Ok(booked) => println!("{} is booked: {}", booking.reference, booked.booking_number),
        Err(error) => {
            let content = String::from_utf8_lossy(&content);
            println!("{} is booked: {content} ({error})", booking.reference);
        }
    }

    let path = "/tracking/v1/shipments/S505185992";
    let shipment: Shipment = serde_json::from_slice(&session.get(path)?.bytes()?)?;
    println!(
        "{} arrives {}, {} milestones",
        shipment.number,
        shipment.arrival.as_deref().unwrap_or("some time"),
        shipment.milestones.len()
    );

    let query = XmlQuery { house_bill: "MIL45176311" };
    let query = quick_xml::se::to_string(&query)?;
    let response = session.post_idempotent("/tracking/v1/shipments", "application/xml", query)?;
    let shipment: XmlShipment = quick_xml::de::from_str(&response.text()?)?;
    println!(
        "{} arrives {}, at last: {}",
        shipment.number,
        shipment.arrival.as_deref().unwrap_or("some time"),
        shipment.milestones.milestone.last().map_or("", |last| &last.description)
    );
    Ok(())
}
