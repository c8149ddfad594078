//! Lets in who has one of the roles in `config` (space separated), by the verified claim `role`; everyone may read.
//! What passes carries `x-role`, which no client can pre-set.
#![no_std]

use arqon_policy::{add_header, claim_text, config_text, property_text, remove_header, Verdict};

fn on_configure() -> Verdict {
    match config_text(&mut [0; 256]) {
        Ok(roles) if !roles.trim().is_empty() => Verdict::Allow,
        _ => Verdict::reject(400, "write the roles that may write, separated by spaces"),
    }
}

fn on_request() -> Verdict {
    let (mut roles, mut role, mut method) = ([0; 256], [0; 64], [0; 16]);
    let roles = config_text(&mut roles).unwrap_or_default();
    let role = match claim_text("role", &mut role) {
        Ok(role) => role,
        Err(_) => return Verdict::reject(403, "the role cannot be read"),
    };
    let reads = matches!(property_text("method", &mut method), Ok(Some("GET" | "HEAD")));
    match role {
        Some(role) if reads || roles.split_ascii_whitespace().any(|known| known == role) => {
            Verdict::allow_if(add_header("x-role", role).is_ok())
        }
        // Nobody may claim a role by sending the header.
        None if reads => Verdict::allow_if(remove_header("x-role").is_ok()),
        _ => Verdict::reject(403, "your role may not write"),
    }
}

arqon_policy::export!(on_request = on_request, on_configure = on_configure);
