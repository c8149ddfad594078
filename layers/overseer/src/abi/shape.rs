//! What a module imports, exports and reserves, read before anything is compiled.

use wasmparser::{
    DataKind, ElementKind, ExternalKind, FuncType, Parser, Payload, TypeRef, ValType, Validator, WasmFeatures,
};

/// Bytes of a Wasm page, where a memory does not say another size.
pub(crate) const PAGE_BYTES: u64 = 65_536;

/// The outline of a module.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    pub(crate) imports: Vec<Import>,
    pub(crate) exports: Vec<Export>,
    pub(crate) memories: Vec<Memory>,
    /// Initial elements of each table.
    pub(crate) tables: Vec<u64>,
    /// Functions the module defines.
    pub(crate) functions: usize,
    /// Bytes of the largest function body.
    pub(crate) function_bytes: usize,
    /// Whether the module has a start function.
    pub(crate) start: bool,
    /// Whether it has globals that change, or segments that can be used and dropped while it runs.
    pub(crate) keeps: bool,
}

#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) module: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) struct Memory {
    /// Bytes it starts with.
    pub(crate) bytes: u64,
    /// The same, begun pages of 64 KiB, whatever size of page it says.
    pub(crate) pages: u64,
    pub(crate) pages_max: Option<u64>,
    pub(crate) imported: bool,
    pub(crate) shared: bool,
    pub(crate) wide: bool,
}

/// What an import or export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Function(Signature),
    Memory,
    Table,
    Global,
    Tag,
}

impl Kind {
    pub(crate) const fn noun(&self) -> &'static str {
        match self {
            Self::Function(_) => "function",
            Self::Memory => "memory",
            Self::Table => "table",
            Self::Global => "global",
            Self::Tag => "tag",
        }
    }
}

/// Parameter and result types, as text: `(i32, i32) -> i32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature(pub(crate) String);

impl Signature {
    /// `params` and `results` many i32.
    pub(crate) fn of_i32(params: usize, results: usize) -> Self {
        Self::of(&vec![ValType::I32; params], &vec![ValType::I32; results])
    }

    fn of(params: &[ValType], results: &[ValType]) -> Self {
        let list = |types: &[ValType]| {
            types
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Self(match results {
            [] => format!("({})", list(params)),
            [one] => format!("({}) -> {one}", list(params)),
            more => format!("({}) -> ({})", list(params), list(more)),
        })
    }
}

impl Shape {
    /// Reads the outline.
    ///
    /// # Errors
    ///
    /// What makes the bytes no core Wasm module, in words.
    pub(crate) fn read(wasm: &[u8]) -> Result<Self, String> {
        if !Parser::is_core_wasm(wasm) {
            return Err("it is a component, or of another version".to_owned());
        }
        // Every proposal is let through here, so that what uses one is named by `Shape::features` instead.
        Validator::new_with_features(WasmFeatures::all())
            .validate_all(wasm)
            .map_err(|error| error.to_string())?;
        let mut reader = Reader::default();
        for payload in Parser::new(0).parse_all(wasm) {
            reader
                .payload(payload.map_err(|error| error.to_string())?)
                .map_err(|error| error.to_string())?;
        }
        reader.shape.functions = reader.functions.len() - reader.imported_functions;
        Ok(reader.shape)
    }

    /// Says which proposal the module needs that `features` lacks, if any.
    ///
    /// # Errors
    ///
    /// The validator's words.
    pub(crate) fn features(wasm: &[u8], features: WasmFeatures) -> Result<(), String> {
        Validator::new_with_features(features)
            .validate_all(wasm)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Whether a call can leave nothing behind in an instance but what lies in its memory, and how large that is: no global
    /// changes, there is no table, no segment to be dropped, nothing but functions is imported, and no code ran before.
    pub(crate) fn is_in_memory(&self) -> bool {
        let only_functions = self
            .imports
            .iter()
            .all(|import| matches!(import.kind, Kind::Function(_)));
        let own_memory = self.memories.iter().all(|memory| !memory.shared);
        only_functions
            && own_memory
            && self.memories.len() <= 1
            && self.tables.is_empty()
            && !self.start
            && !self.keeps
    }

    pub(crate) fn export(&self, name: &str) -> Option<&Kind> {
        self.exports
            .iter()
            .find(|export| export.name == name)
            .map(|export| &export.kind)
    }
}

#[derive(Default)]
struct Reader {
    shape: Shape,
    types: Vec<Option<FuncType>>,
    /// Type index of every function, imports first.
    functions: Vec<u32>,
    imported_functions: usize,
}

impl Reader {
    fn payload(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        self.types.push(match ty.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    let kind = self.import(import.ty);
                    self.shape.imports.push(Import {
                        module: import.module.to_owned(),
                        name: import.name.to_owned(),
                        kind,
                    });
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    self.functions.push(index?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    self.shape.tables.push(table?.ty.initial);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memory(memory?, false);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => {
                            Kind::Function(self.signature(export.index))
                        }
                        ExternalKind::Memory => Kind::Memory,
                        ExternalKind::Table => Kind::Table,
                        ExternalKind::Global => Kind::Global,
                        ExternalKind::Tag => Kind::Tag,
                    };
                    self.shape.exports.push(Export {
                        name: export.name.to_owned(),
                        kind,
                    });
                }
            }
            Payload::StartSection { .. } => self.shape.start = true,
            Payload::GlobalSection(section) => {
                for global in section {
                    self.shape.keeps |= global?.ty.mutable;
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    self.shape.keeps |= !matches!(element?.kind, ElementKind::Active { .. });
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    self.shape.keeps |= !matches!(data?.kind, DataKind::Active { .. });
                }
            }
            Payload::CodeSectionEntry(body) => {
                self.shape.function_bytes = self.shape.function_bytes.max(body.range().len());
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, ty: TypeRef) -> Kind {
        match ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                self.functions.push(index);
                self.imported_functions += 1;
                Kind::Function(self.signature_of(index))
            }
            TypeRef::Memory(memory) => {
                self.memory(memory, true);
                Kind::Memory
            }
            TypeRef::Table(table) => {
                self.shape.tables.push(table.initial);
                Kind::Table
            }
            TypeRef::Global(_) => Kind::Global,
            TypeRef::Tag(_) => Kind::Tag,
        }
    }

    fn memory(&mut self, memory: wasmparser::MemoryType, imported: bool) {
        let page = 1_u64 << memory.page_size_log2.unwrap_or(PAGE_BYTES.ilog2());
        let bytes = |pages: u64| pages.saturating_mul(page);
        self.shape.memories.push(Memory {
            bytes: bytes(memory.initial),
            pages: bytes(memory.initial).div_ceil(PAGE_BYTES),
            pages_max: memory.maximum.map(|pages| bytes(pages).div_ceil(PAGE_BYTES)),
            imported,
            shared: memory.shared,
            wide: memory.memory64,
        });
    }

    fn signature(&self, function: u32) -> Signature {
        self.functions
            .get(usize::try_from(function).unwrap_or(usize::MAX))
            .map_or_else(
                || Signature("unknown".to_owned()),
                |index| self.signature_of(*index),
            )
    }

    fn signature_of(&self, index: u32) -> Signature {
        match self.types.get(usize::try_from(index).unwrap_or(usize::MAX)) {
            Some(Some(function)) => Signature::of(function.params(), function.results()),
            _ => Signature("unknown".to_owned()),
        }
    }
}
