//! Sends back what comes, by TLS, with a certificate that is made at the start: `cargo run --release --features tls
//! --example tls -- 127.0.0.1:7443`, then `openssl s_client -connect 127.0.0.1:7443`. A word on the standard input makes
//! another certificate, for the connections that come then.

use std::io::BufRead;
use std::net::TcpListener;
use std::sync::Arc;

use poller::tls::rustls::ServerConfig;
use poller::tls::rustls::pki_types::PrivateKeyDer;
use poller::{Closed, Connection, EventLoop, Handler, Prepare, Reject, tls};

type Failure = Box<dyn std::error::Error>;

/// A configuration with a new certificate for `localhost`, which is also printed in hexadecimal digits.
fn config() -> Result<ServerConfig, Failure> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let digits: String = issued.cert.der().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("certificate {digits}");
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der())?;
    Ok(ServerConfig::builder().with_no_client_auth().with_single_cert(vec![issued.cert.into()], key)?)
}

struct SecretEcho {
    server: Arc<tls::Server>,
}

impl Handler for SecretEcho {
    type Context = ();

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<(), Reject> {
        // With the certificate of this moment; no other callback has to know of it.
        conn.set_tls(self.server.accept()?);
        Ok(())
    }

    fn on_connect(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        if let Some(tls) = conn.tls() {
            println!(
                "{:?} for {}",
                tls.protocol_version(),
                tls.server_name().unwrap_or("nobody in particular")
            );
        }
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        let (input, output) = conn.buffers();
        output.append(std::mem::take(input));
        Ok(())
    }

    fn on_close(&self, _: &mut (), info: &Closed) {
        println!("{} after {} bytes in and {} out", info.reason, info.bytes_in, info.bytes_out);
    }
}

fn main() -> Result<(), Failure> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7443".into());
    let event_loop = EventLoop::new()?;
    let listener = TcpListener::bind(addr)?;
    println!("TLS echo on {}; ends at the end of the standard input", listener.local_addr()?);
    let server = Arc::new(tls::Server::new(config()?)?);
    event_loop.serve(listener, SecretEcho { server: server.clone() })?;
    for _ in std::io::stdin().lock().lines() {
        server.replace(config()?)?;
    }
    Ok(())
}
