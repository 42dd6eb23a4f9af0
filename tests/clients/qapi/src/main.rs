//! Rust's crate `qapi`: qapi-client SOCKET CONVERSATION; prints a line for each answer, then the events.
//!
//! Its commands are types made from QEMU's schema, of a version that the crate says; what it does not know of an answer is not in it.

use qapi::{qmp, Command, ExecuteError, Qmp, Stream};
use serde_json::{from_value, json, to_value, Value};
use std::io::BufReader;
use std::os::unix::net::UnixStream;

type Client = Qmp<Stream<BufReader<UnixStream>, UnixStream>>;

/// Sends a command of that type, with those arguments.
fn typed<C>(client: &mut Client, arguments: Value) -> Value
where
    C: Command + serde::de::DeserializeOwned,
    C::Ok: serde::Serialize,
{
    let command: C = from_value(arguments).expect("arguments of that command");
    match client.execute(&command) {
        Ok(answer) => json!({"return": to_value(answer).expect("an answer")}),
        Err(ExecuteError::Qapi(error)) => json!({"error": error.desc}),
        Err(ExecuteError::Io(error)) => panic!("{}: {error}", C::NAME),
    }
}

macro_rules! commands {
    ($client:ident, $name:expr, $arguments:expr, $($known:literal = $command:ident,)*) => {
        match $name {
            $($known => typed::<qmp::$command>($client, $arguments),)*
            other => panic!("the client does not know {other}"),
        }
    };
}

fn ask(client: &mut Client, name: &str, arguments: Value) -> Value {
    commands!(client, name, arguments,
        "query-status" = query_status,
        "query-block" = query_block,
        "query-cpus-fast" = query_cpus_fast,
        "query-hotpluggable-cpus" = query_hotpluggable_cpus,
        "query-pci" = query_pci,
        "query-chardev" = query_chardev,
        "query-migrate" = query_migrate,
        "query-machines" = query_machines,
        "query-qmp-schema" = query_qmp_schema,
        "query-jobs" = query_jobs,
        "query-named-block-nodes" = query_named_block_nodes,
        "blockdev-add" = blockdev_add,
        "device_add" = device_add,
        "device_del" = device_del,
        "transaction" = transaction,
        "block-job-cancel" = block_job_cancel,
        "quit" = quit,
    )
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (socket, file) = (args.next().expect("a socket"), args.next().expect("a conversation"));
    let steps: Vec<Vec<Value>> = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("steps");
    let stream = UnixStream::connect(socket).expect("a monitor");
    let reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut client = Qmp::new(Stream::new(reader, stream));
    client.handshake().expect("a greeting");
    let mut events = Vec::new();
    for step in steps {
        let answer = match step[0].as_str().expect("a name") {
            "until" => loop {
                let answer = ask(&mut client, step[1].as_str().expect("a name"), json!({}));
                if answer["return"] == step[2] {
                    break answer;
                }
            },
            name => ask(&mut client, name, step[1].clone()),
        };
        println!("{answer}");
        let name = |event| to_value(event).expect("an event")["event"].clone();
        events.extend(client.events().map(name));
    }
    println!("{}", json!({ "events": events }));
}
