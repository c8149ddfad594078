//! Everything wrong with a module, found before it is compiled.

use super::{FUNCTIONS, MARKER, MODULE};
use crate::{
    abi::shape::{Kind, Memory, PAGE_BYTES, Shape, Signature},
    engine::{Entry, Exports, Settings},
    report::{Facts, LoadReport},
    verify::LoadLimits,
};

/// What the loader needs to know of a module that may be loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) exports: Exports,
    pub(crate) needs_body: bool,
    pub(crate) needs_claims: bool,
    pub(crate) configures: bool,
    /// Pages of memory it starts with.
    pub(crate) pages: u64,
    /// Whether an instance whose memory is put back is as one made now: see [`Shape::is_in_memory`].
    pub(crate) is_in_memory: bool,
}

/// Looks at a binary module: all findings and the facts go into `report`; the plan is of use only if it is ok.
pub(crate) fn inspect(
    report: &mut LoadReport,
    wasm: &[u8],
    sha256: &str,
    rewrite: bool,
    limits: &LoadLimits,
) -> Plan {
    let shape = match Shape::read(wasm) {
        Ok(shape) => shape,
        Err(error) => {
            report.error(
                "module.invalid",
                "module",
                format!("this is no valid core Wasm module: {error}"),
                "build a core module for wasm32-unknown-unknown; components and precompiled modules are not taken",
            );
            return Plan::default();
        }
    };
    imports(report, &shape, rewrite);
    memories(report, &shape, limits);
    sizes(report, &shape, limits);
    let exports = exports(report, &shape);
    if report.ok
        && let Err(error) = Shape::features(wasm, Settings::features())
    {
        report.error(
            "module.feature",
            "module",
            format!("the module uses a Wasm proposal that is switched off: {error}"),
            "build without threads, memory64, multi-memory, GC, exceptions and relaxed SIMD",
        );
    }
    let host = |name: &str| {
        shape
            .imports
            .iter()
            .any(|import| import.module == MODULE && import.name == name)
    };
    let plan = Plan {
        needs_body: host("host_payload_len") || host("host_get_payload") || host("host_set_payload"),
        needs_claims: host("host_get_claim"),
        configures: exports.entries.get(2).is_some_and(Option::is_some),
        pages: shape.memories.first().map_or(0, |memory| memory.pages),
        is_in_memory: shape.is_in_memory() && exports.initialize.is_none(),
        exports,
    };
    report.facts = Some(facts(&shape, &plan, wasm, sha256, host("host_set_payload")));
    plan
}

fn facts(shape: &Shape, plan: &Plan, wasm: &[u8], sha256: &str, rewrites: bool) -> Facts {
    let memory = shape.memories.first();
    Facts {
        sha256: sha256.to_owned(),
        wasm_bytes: wasm.len(),
        abi: MODULE.to_owned(),
        entries: plan
            .exports
            .entries
            .iter()
            .flatten()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        imports: shape
            .imports
            .iter()
            .filter(|import| import.module == MODULE)
            .map(|import| import.name.clone())
            .collect(),
        needs_body: plan.needs_body,
        needs_claims: plan.needs_claims,
        rewrites,
        sees_responses: plan.exports.entries.get(1).is_some_and(Option::is_some),
        pages: memory.map_or(0, |memory| memory.pages),
        pages_max: memory.and_then(|memory| memory.pages_max),
        functions: shape.functions,
        compile_ms: None,
        dry_run: None,
    }
}

fn imports(report: &mut LoadReport, shape: &Shape, rewrite: bool) {
    for import in &shape.imports {
        let item = format!("{}.{}", import.module, import.name);
        if import.module != MODULE {
            foreign(report, &item, &import.module, &import.name);
            continue;
        }
        let Some((_, params, results)) = FUNCTIONS.iter().find(|(name, ..)| *name == import.name) else {
            let near = FUNCTIONS
                .iter()
                .map(|(name, ..)| (strsim::osa_distance(name, &import.name), *name))
                .min()
                .filter(|(distance, _)| *distance <= 4);
            let fix = match near {
                Some((_, name)) => format!("did you mean `{name}`?"),
                None => "use the functions of the ABI's table only".to_owned(),
            };
            report.error(
                "import.name",
                item,
                format!("`{MODULE}` has no `{}`", import.name),
                fix,
            );
            continue;
        };
        let expected = Kind::Function(Signature::of_i32(*params, *results));
        match &import.kind {
            kind if *kind == expected => {}
            Kind::Function(signature) => report.error(
                "import.type",
                item,
                format!("the module declares it as {}", signature.0),
                format!("declare it as {}", Signature::of_i32(*params, *results).0),
            ),
            other => report.error(
                "import.kind",
                item,
                format!("the module imports it as a {}", other.noun()),
                "import it as a function",
            ),
        }
        if import.name == "host_set_payload" && !rewrite {
            report.error(
                "grant.missing",
                format!("{MODULE}.host_set_payload"),
                "the module replaces the payload, which this policy is not granted",
                "add grants = [\"rewrite\"] to the policy, or do not import it",
            );
        }
    }
}

/// Says what to do about an import that is not of this ABI.
fn foreign(report: &mut LoadReport, item: &str, module: &str, name: &str) {
    if module.starts_with("wasi") {
        report.error(
            "import.wasi",
            item,
            "the module imports WASI; a policy has no files, no network, no clock, no environment and no standard output",
            "build for wasm32-unknown-unknown (Rust: --target wasm32-unknown-unknown; C: -nostdlib; TinyGo and Go: \
             no WASI target), and log with host_log",
        );
    } else if module.strip_prefix("arqon_host_v").is_some() {
        report.error(
            "import.version",
            item,
            format!("the module was built for `{module}`; this host speaks `{MODULE}`"),
            format!("build it against `{MODULE}`"),
        );
    } else if module == "env" && name == "abort" {
        report.error(
            "import.env_abort",
            item,
            "AssemblyScript's abort is not a host function",
            "build with --use abort= (and --runtime stub)",
        );
    } else if module == "env" && name == "memory" {
        report.error(
            "memory.imported",
            item,
            "the module imports its memory",
            "define the memory in the module and export it as `memory` (no --import-memory)",
        );
    } else {
        report.error(
            "import.module",
            item,
            format!("a policy may import from `{MODULE}` only"),
            "remove the import; in C, an undefined function becomes one: link without --allow-undefined",
        );
    }
}

fn memories(report: &mut LoadReport, shape: &Shape, limits: &LoadLimits) {
    if shape.memories.len() > 1 {
        report.error(
            "memory.count",
            "memory",
            format!("the module has {} memories", shape.memories.len()),
            "use one memory",
        );
    }
    let bytes_max = limits.memory_bytes_max as u64;
    for Memory {
        bytes,
        pages,
        imported,
        shared,
        wide,
        ..
    } in &shape.memories
    {
        if *imported
            && !report
                .findings
                .iter()
                .any(|finding| finding.code == "memory.imported")
        {
            report.error(
                "memory.imported",
                "memory",
                "the module imports its memory",
                "define the memory in the module and export it as `memory`",
            );
        }
        if *shared {
            report.error(
                "memory.shared",
                "memory",
                "the memory is shared",
                "build without threads",
            );
        }
        if *wide {
            report.error(
                "memory.64bit",
                "memory",
                "the memory has 64-bit addresses",
                "build for wasm32",
            );
        }
        if *bytes > bytes_max {
            let pages_max = bytes_max / PAGE_BYTES;
            report.error(
                "memory.too_large",
                "memory",
                format!("the memory starts at {pages} pages; {pages_max} pages of 64 KiB are allowed"),
                "lower the initial memory: a smaller stack (-z stack-size=65536), fewer static buffers",
            );
        }
    }
}

fn sizes(report: &mut LoadReport, shape: &Shape, limits: &LoadLimits) {
    if shape.tables.len() > 1 {
        report.error(
            "table.count",
            "table",
            format!("the module has {} tables; 1 is allowed", shape.tables.len()),
            "use one table",
        );
    }
    for elements in shape
        .tables
        .iter()
        .filter(|elements| **elements > limits.table_elements_max as u64)
    {
        report.error(
            "table.too_large",
            "table",
            format!(
                "the table starts at {elements} elements; {} are allowed",
                limits.table_elements_max
            ),
            "link fewer functions by address",
        );
    }
    if shape.functions > limits.functions_max {
        report.error(
            "module.functions",
            "module",
            format!(
                "the module has {} functions; {} are allowed",
                shape.functions, limits.functions_max
            ),
            "link with --gc-sections, or raise functions_max",
        );
    }
    if shape.function_bytes > limits.function_bytes_max {
        report.error(
            "module.function_bytes",
            "module",
            format!(
                "its largest function has {} bytes; {} are allowed",
                shape.function_bytes, limits.function_bytes_max
            ),
            "split the function, or raise function_bytes_max",
        );
    }
}

fn exports(report: &mut LoadReport, shape: &Shape) -> Exports {
    match shape.export(MARKER) {
        Some(Kind::Function(_) | Kind::Global) => {}
        Some(other) => report.error(
            "export.marker",
            MARKER,
            format!("`{MARKER}` is a {}", other.noun()),
            "export it as a global or a function",
        ),
        None => report.error(
            "export.marker",
            MARKER,
            format!("the module does not say which ABI it was made for: there is no export `{MARKER}`"),
            format!("export a global or function `{MARKER}` (WAT: (global (export \"{MARKER}\") i32 (i32.const 1)))"),
        ),
    }
    match shape.export("memory") {
        Some(Kind::Memory) => {}
        Some(other) => report.error(
            "export.memory",
            "memory",
            format!("`memory` is a {}", other.noun()),
            "export the linear memory as `memory`",
        ),
        None => report.error(
            "export.memory",
            "memory",
            "the module exports no memory",
            "export the linear memory as `memory`",
        ),
    }
    let request = function(report, shape, "on_request", 0, 1).then_some(("on_request", Entry::Plain));
    let request = match request {
        None if shape.export("on_request").is_none() => {
            function(report, shape, "policy_check", 2, 1).then_some(("policy_check", Entry::Pair))
        }
        request => request,
    };
    let response = function(report, shape, "on_response", 0, 1).then_some(("on_response", Entry::Plain));
    let configure = function(report, shape, "on_configure", 0, 1).then_some(("on_configure", Entry::Plain));
    if ["on_request", "policy_check", "on_response"]
        .iter()
        .all(|name| shape.export(name).is_none())
    {
        let started = if shape.export("_start").is_some() {
            " (a `_start` is a program's: build a library)"
        } else {
            ""
        };
        report.error(
            "export.entry",
            "on_request",
            format!("the module has nothing to call for a request{started}"),
            "export a function `on_request` () -> i32 that returns 0 to allow",
        );
    }
    let initialize = function(report, shape, "_initialize", 0, 0);
    Exports {
        memory: Some("memory"),
        initialize: initialize.then_some("_initialize"),
        entries: vec![request, response, configure],
    }
}

/// Whether the module exports this function, of the right type.
fn function(report: &mut LoadReport, shape: &Shape, name: &str, params: usize, results: usize) -> bool {
    let expected = Signature::of_i32(params, results);
    match shape.export(name) {
        None => false,
        Some(Kind::Function(signature)) if *signature == expected => true,
        Some(Kind::Function(signature)) => {
            report.error(
                "export.type",
                name,
                format!("`{name}` is {}", signature.0),
                format!("make it {}", expected.0),
            );
            false
        }
        Some(other) => {
            report.error(
                "export.type",
                name,
                format!("`{name}` is a {}", other.noun()),
                "export a function",
            );
            false
        }
    }
}
