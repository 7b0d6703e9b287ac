//! The example `fetch` as a script sees it: its output and its exit statuses.

use std::process::Output;

#[path = "support/sandbox/mod.rs"]
mod sandbox;
use sandbox::{run_with_input, Fault, Place, Sandbox, CLIENT_SECRET};

/// Runs `fetch` with this standard input. Cargo has built it beside the tests.
fn fetch(sandbox: &Sandbox, secret: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = sandbox.example("fetch");
    let command = command.args(arguments);
    run_with_input(command.env("JAS_CLIENT_SECRET", secret), input)
}

#[test]
fn response_goes_to_standard_output() {
    let sandbox = Sandbox::start();
    let large = fetch(&sandbox, CLIENT_SECRET, &["get", "/documents/v1/large?bytes=3000000"], "");
    assert_eq!((large.status.code(), large.stdout.len()), (Some(0), 3_000_000));
    assert_eq!(sandbox.requests()[1].method, "GET");

    let query = "<ShipmentQuery><HouseBill>PAR45176295</HouseBill></ShipmentQuery>";
    let arguments = ["query", "/tracking/v1/shipments", "application/xml", "-"];
    // A query is retried.
    sandbox.next(Place::Api, Fault::Raw(vec![]));
    let response = fetch(&sandbox, CLIENT_SECRET, &arguments, query);
    assert_eq!(response.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&response.stdout).contains("S505185992"));
    assert_eq!(sandbox.requests().last().expect("a request").content, query.as_bytes());

    let help = fetch(&sandbox, "", &["--help"], "");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit status:"));
}

#[test]
fn exit_status_says_what_to_do() {
    let sandbox = Sandbox::start();
    let book = ["post", "/bookings/v1/bookings", "application/json", "-"];
    let shipment = ["get", "/tracking/v1/shipments/S505185992"];
    let status = |status| Some(Fault::Response(status, vec![], b"<why>".to_vec()));
    for (fault, arguments, secret, expected) in [
        (None, &[][..], CLIENT_SECRET, 2),
        (None, &["get", "/a", "b"], CLIENT_SECRET, 2),
        (None, &["get", "a"], CLIENT_SECRET, 2),
        (None, &shipment, "", 2),
        (None, &["post", "/a", "a/b", "/no/such/file"], CLIENT_SECRET, 1),
        (None, &shipment, "wrong", 3),
        (status(418), &shipment, CLIENT_SECRET, 4),
        (status(400), &book, CLIENT_SECRET, 4),
        (Some(Fault::Raw(vec![])), &shipment, CLIENT_SECRET, 5),
        (status(500), &book, CLIENT_SECRET, 6),
        (Some(Fault::Truncate(0)), &book, CLIENT_SECRET, 6),
    ] {
        let has_content = matches!(fault, Some(Fault::Response(..)));
        sandbox.always(Place::Api, fault);
        let output = fetch(&sandbox, secret, arguments, "{}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
        // With the feature `log`, its lines come first.
        assert!(errors.lines().any(|line| line.starts_with("error: ")), "{errors}");
        assert_eq!(errors.ends_with("<why>\n"), has_content, "{errors}");
    }
    assert_eq!(sandbox.bookings(), 1);
}
