//! Two logins under one key, and when each was answered.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use simulated::limits::DERIVE_MEMORY_KIB_MIN;
use simulated::logins::Logins;
use simulated::proto::credentials::{Credentials, Login, Proven, Secret};
use simulated::proto::derive::{Cost, Derived, Recipe, derive};
use simulated::rt;

/// Runs it: the answers to the right password and to a wrong one, and at which nanosecond they came.
pub(crate) fn run(seed: u64) -> [(Proven, u64); 2] {
    rt::begin(seed);
    let _gateway = rt::spawn("gateway", Ipv4Addr::new(10, 0, 0, 1));
    let recipe = Recipe { salt: [5; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).unwrap() };
    let keys = derive(&Secret::new("right").unwrap(), &recipe).expect("there is memory");
    let mut credentials = Credentials::new();
    credentials.insert_user("prod", Derived::new(recipe, &keys)).unwrap();
    let logins = Logins::new(Arc::new(credentials)).unwrap();
    let answers = ["right", "wrong"].map(|password| {
        let answer = Arc::new(Mutex::new(None));
        let tell = answer.clone();
        let then = move |proven| *tell.lock().unwrap() = Some((proven, rt::now_ns()));
        let known = logins.check(None, Login::new(b"prod", password.as_bytes()).unwrap(), then);
        assert_eq!(known, None, "it has to be computed");
        answer
    });
    while rt::step() {}
    rt::end();
    answers.map(|answer| answer.lock().unwrap().expect("it is answered"))
}
