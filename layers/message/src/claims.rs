//! The verified claims of whoever sent the request.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Claims of a token that an authenticating layer has *verified*; it puts them into the request's extensions.
///
/// Cloning is a reference count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Arc<Value>);

impl Claims {
    /// Takes verified claims.
    #[must_use]
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(Arc::new(Value::Object(claims)))
    }

    /// The claim called `name`, taken literally.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value at a JSON pointer (RFC 6901), such as `/realm_access/roles/0`.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// All claims, as one JSON object (`null` when there are none).
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.0
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        Self::new(claims)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_reaches_into_nested_claims_and_a_name_does_not() {
        let Value::Object(map) = json!({"sub": "u1", "realm": {"roles": ["a"]}, "a/b": 1}) else {
            unreachable!()
        };
        let claims = Claims::new(map);
        assert_eq!(claims.get("sub"), Some(&json!("u1")));
        assert_eq!(claims.pointer("/realm/roles/0"), Some(&json!("a")));
        assert_eq!(claims.get("a/b"), Some(&json!(1)));
        assert_eq!(claims.get("realm/roles"), None);
        assert_eq!(Claims::default().get("sub"), None);
    }
}
