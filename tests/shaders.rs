//! Every variant of every WGSL kernel is valid in its tier, stays within WebGPU's default limits, and translates to
//! SPIR-V and to the Metal Shading Language, so that Metal cannot break unseen on a machine that has none.
//!
//! The core tier is held to a validator without f16 and without subgroup operations; the other tier has both. Messages
//! name the line of the template, not of its expansion.

use std::collections::HashMap;

use naga::back::{msl, spv};
use naga::front::wgsl;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use nearmiss::device::Tier;
use nearmiss::ops;
use nearmiss::ops::kernels::{Expanded, Source, Var, Variant, expand};

/// WebGPU's default limits, which every adapter has.
const MAX_INVOCATIONS: u32 = 256;
const MAX_GROUP: [u32; 3] = [256, 256, 64];
const MAX_WORKGROUP_BYTES: u32 = 16_384;
const MAX_STORAGE_BUFFERS: usize = 8;
/// What Vulkan promises for push constants.
const MAX_IMMEDIATE_BYTES: u32 = 128;

/// One shader variant, expanded.
struct Case {
    source: Source,
    variant: Variant,
    tier: Tier,
    expanded: Expanded,
}

impl Case {
    fn new(source: Source, variant: Variant) -> Self {
        let on = |name| variant.get(name) == Some(Var::Flag(true));
        let tier = if on("native") || on("subgroups") {
            Tier::F16Subgroups
        } else {
            Tier::Core
        };
        let expanded = expand(source, &variant).unwrap_or_else(|e| panic!("{e}"));
        Case {
            source,
            variant,
            tier,
            expanded,
        }
    }

    /// The same with another text.
    fn with_text(&self, text: String) -> Self {
        Case {
            source: self.source,
            variant: self.variant,
            tier: self.tier,
            expanded: Expanded {
                text,
                lines: self.expanded.lines.clone(),
            },
        }
    }

    fn name(&self) -> String {
        format!("{} [{}]", self.source.file, self.variant)
    }

    /// `shaders/FILE:LINE` of a line of the expanded text.
    fn place(&self, line: Option<u32>) -> String {
        line.and_then(|line| self.expanded.origin(line as usize))
            .map_or_else(
                || format!("shaders/{}", self.source.file),
                |origin| format!("shaders/{origin}"),
            )
    }

    fn check(&self) -> Result<(), String> {
        let (module, info) = self.validate()?;
        if module.entry_points.is_empty() {
            return Err(format!("{}: no entry point", self.place(None)));
        }
        for index in 0..module.entry_points.len() {
            self.limits(&module, &info, index)?;
            self.spirv(&module, &info, index)?;
            self.metal(&module, &info, index)?;
        }
        Ok(())
    }

    /// Parses and validates with what the tier may use, no more.
    fn validate(&self) -> Result<(Module, ModuleInfo), String> {
        // PackedTexts pairs of f16 into a u32 is core WGSL; the validator knows it apart because OpenGL may lack it.
        let core = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let capabilities = match self.tier {
            Tier::Core => core,
            Tier::F16Subgroups => core | Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP,
        };
        let text = &self.expanded.text;
        let options = wgsl::Options {
            capabilities,
            ..wgsl::Options::new()
        };
        let module = wgsl::Frontend::new_with_options(options)
            .parse(text)
            .map_err(|e| {
                let place = self.place(e.location(text).map(|l| l.line_number));
                let notes: Vec<&str> = e.labels().map(|(_, label)| label).collect();
                format!("{place}: {} ({})", e.message(), notes.join("; "))
            })?;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .map_err(|e| {
                let place = self.place(e.location(text).map(|l| l.line_number));
                // The chain of causes: the outermost says only which function.
                let mut message = e.as_inner().to_string();
                let mut cause = std::error::Error::source(e.as_inner());
                while let Some(inner) = cause {
                    message.push_str(&format!(": {inner}"));
                    cause = inner.source();
                }
                format!("{place}: {message}")
            })?;
        Ok((module, info))
    }

    fn limits(&self, module: &Module, info: &ModuleInfo, index: usize) -> Result<(), String> {
        let entry = &module.entry_points[index];
        let line = entry
            .function
            .body
            .span_iter()
            .next()
            .map(|(_, span)| span.location(&self.expanded.text).line_number);
        let fail = |what: String| {
            Err(format!(
                "{}: entry {}: {what}",
                self.place(line),
                entry.name
            ))
        };
        if entry.stage != ShaderStage::Compute {
            return fail("not a compute shader".into());
        }
        let size = entry.workgroup_size;
        let invocations: u32 = size.iter().product();
        if invocations == 0
            || invocations > MAX_INVOCATIONS
            || size.iter().zip(MAX_GROUP).any(|(s, max)| *s > max)
        {
            return fail(format!(
                "workgroup of {size:?}, at most {MAX_INVOCATIONS} invocations"
            ));
        }
        let uses = info.get_entry_point(index);
        let (mut workgroup, mut immediates, mut storage) = (0, 0, 0);
        for (handle, global) in module.global_variables.iter() {
            if uses[handle].is_empty() {
                continue;
            }
            let bytes = module.types[global.ty].inner.size(module.to_ctx());
            match global.space {
                // Laid out one behind the other, each aligned to at most 16.
                AddressSpace::WorkGroup => workgroup += bytes.next_multiple_of(16),
                AddressSpace::Immediate => immediates += bytes,
                AddressSpace::Storage { .. } => storage += 1,
                AddressSpace::Private => {}
                other => return fail(format!("a variable in {other:?}")),
            }
        }
        if workgroup > MAX_WORKGROUP_BYTES {
            return fail(format!(
                "{workgroup} bytes of workgroup memory, at most {MAX_WORKGROUP_BYTES}"
            ));
        }
        if immediates > MAX_IMMEDIATE_BYTES {
            return fail(format!(
                "{immediates} bytes of parameters, at most {MAX_IMMEDIATE_BYTES}"
            ));
        }
        if storage > MAX_STORAGE_BUFFERS {
            return fail(format!(
                "{storage} storage buffers, at most {MAX_STORAGE_BUFFERS}"
            ));
        }
        Ok(())
    }

    /// SPIR-V for Vulkan 1.0 and nothing optional in the core tier; 1.3 with f16 and subgroups in the other.
    fn spirv(&self, module: &Module, info: &ModuleInfo, index: usize) -> Result<(), String> {
        use spv::Capability as C;
        let (lang_version, allowed): (_, &[C]) = match self.tier {
            Tier::Core => ((1, 0), &[C::Shader]),
            Tier::F16Subgroups => (
                (1, 3),
                &[
                    C::Shader,
                    C::Float16,
                    C::StorageBuffer16BitAccess,
                    C::UniformAndStorageBuffer16BitAccess,
                    C::StorageInputOutput16,
                    C::GroupNonUniform,
                    C::GroupNonUniformVote,
                    C::GroupNonUniformArithmetic,
                    C::GroupNonUniformBallot,
                    C::GroupNonUniformShuffle,
                    C::GroupNonUniformShuffleRelative,
                    C::GroupNonUniformQuad,
                ],
            ),
        };
        let options = spv::Options {
            lang_version,
            capabilities: Some(allowed.iter().copied().collect()),
            ..Default::default()
        };
        let entry = &module.entry_points[index];
        let pipeline = spv::PipelineOptions {
            shader_stage: entry.stage,
            entry_point: entry.name.clone(),
        };
        let words = spv::write_vec(module, info, &options, Some(&pipeline))
            .map_err(|e| format!("{}: entry {} as SPIR-V: {e}", self.place(None), entry.name))?;
        assert_eq!(words.first(), Some(&0x0723_0203), "{}", self.name());
        Ok(())
    }

    /// MSL with every buffer in a slot of its own, as Metal gets it.
    fn metal(&self, module: &Module, info: &ModuleInfo, index: usize) -> Result<(), String> {
        let entry = &module.entry_points[index];
        let fail =
            |why: String| format!("{}: entry {} as MSL: {why}", self.place(None), entry.name);
        let mut slots = msl::EntryPointResources::default();
        let mut next: msl::Slot = 0;
        let mut slot = || {
            next += 1;
            Some(next - 1)
        };
        slots.immediates_buffer = slot();
        slots.sizes_buffer = slot();
        for (_, global) in module.global_variables.iter() {
            if let Some(binding) = global.binding {
                let target = msl::BindTarget {
                    buffer: slot(),
                    mutable: true,
                    ..Default::default()
                };
                if slots.resources.insert(binding, target).is_some() {
                    return Err(fail(format!("{binding:?} is used twice")));
                }
            }
        }
        let options = msl::Options {
            lang_version: match self.tier {
                Tier::Core => (2, 0),
                Tier::F16Subgroups => (2, 3),
            },
            per_entry_point_map: [(entry.name.clone(), slots)].into(),
            fake_missing_bindings: false,
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((entry.stage, entry.name.clone())),
            ..Default::default()
        };
        let (text, translated) = msl::write_string(module, info, &options, &pipeline)
            .map_err(|e| fail(e.to_string()))?;
        for name in translated.entry_point_names {
            name.map_err(|e| fail(e.to_string()))?;
        }
        if !text.contains("kernel void") {
            return Err(fail("no kernel in it".into()));
        }
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for op in ops::ALL {
        let Some(source) = op.wgsl else { continue };
        for variant in (op.wgsl_variants)() {
            cases.push(Case::new(source, variant));
        }
    }
    cases
}

#[test]
fn every_variant_is_valid_in_its_tier_and_translates() {
    let cases = cases();
    let mut count = HashMap::new();
    let mut failures = Vec::new();
    for case in &cases {
        let counts: &mut [usize; 2] = count.entry(case.source.file).or_default();
        counts[case.tier as usize] += 1;
        if let Err(why) = case.check() {
            failures.push(format!("[{}] {why}", case.variant));
        }
    }
    for op in ops::ALL {
        let Some(source) = op.wgsl else { continue };
        let [core, full] = count.get(source.file).copied().unwrap_or_default();
        println!("{:<20} {core} core, {full} f16 + subgroups", source.file);
        assert!(
            core > 0 && full > 0,
            "{} has no variant in one of the tiers",
            source.file
        );
    }
    assert!(
        failures.is_empty(),
        "{} of {} variants failed\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

#[test]
fn no_two_variants_are_the_same_text() {
    let mut texts = HashMap::new();
    for case in cases() {
        let name = case.name();
        if let Some(twin) = texts.insert(case.expanded.text, name.clone()) {
            panic!("{name} is the same text as {twin}: one pipeline is compiled twice");
        }
    }
}

#[test]
fn headers_state_every_field() {
    let fields = [
        "Computes", "Twin", "Ent", "Shapes", "Layout", "Requires", "Launch", "Mapping", "Memory",
        "Sync", "Limits", "Work", "Traffic", "Roofline", "Measured", "Numerics", "Edges",
    ];
    let mut missing = Vec::new();
    for op in ops::ALL {
        let Some(source) = op.wgsl else { continue };
        // `Twin` or `Twins`, `Entry` or `Entries`: the field is the first word, and something follows it.
        let stated: Vec<(&str, &str)> = source
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("// ")?.split_once(' '))
            .filter(|(_, rest)| !rest.trim().is_empty())
            .collect();
        for field in fields {
            let there = stated.iter().any(|(word, _)| match field {
                "Twin" => ["Twin", "Twins"].contains(word),
                "Ent" => ["Entry", "Entries"].contains(word),
                _ => *word == field,
            });
            if !there {
                let field = if field == "Ent" { "Entry" } else { field };
                missing.push(format!(
                    "shaders/{}: the header does not state {field}",
                    source.file
                ));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn headers_name_every_entry_point() {
    for case in cases() {
        let stated = case
            .source
            .text
            .lines()
            .find(|l| l.starts_with("// Entry ") || l.starts_with("// Entries "))
            .unwrap_or_default();
        let (module, _) = case.validate().unwrap_or_else(|e| panic!("{e}"));
        for entry in &module.entry_points {
            assert!(
                stated
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| word == entry.name),
                "shaders/{}: the header does not name entry {}: {stated}",
                case.source.file,
                entry.name
            );
        }
    }
}

/// A variant of matmul in `tier` that stages panels in workgroup memory.
fn matmul(tier: Tier) -> Case {
    let source = ops::matmul::SPEC.wgsl.expect("matmul has WGSL");
    (ops::matmul::SPEC.wgsl_variants)()
        .into_iter()
        .map(|variant| Case::new(source, variant))
        .find(|case| case.tier == tier && case.expanded.text.contains("var<workgroup>"))
        .expect("matmul has a staged variant in either tier")
}

/// `case` with `from` replaced by `to`, and what the check says about it.
fn broken(case: &Case, from: &str, to: &str) -> String {
    let text = case.expanded.text.replacen(from, to, 1);
    assert_ne!(text, case.expanded.text, "`{from}` is not in the shader");
    match case.with_text(text).check() {
        Ok(()) => panic!("`{to}` for `{from}` passes: the test cannot fail"),
        Err(why) => why,
    }
}

#[test]
fn broken_shaders_are_rejected_and_located() {
    let core = matmul(Tier::Core);
    core.check().expect("the shader as it is");
    let declared = "const TILE: u32 = 64u;";
    let line = 1 + core
        .source
        .text
        .lines()
        .position(|l| l == declared)
        .expect("there");
    let place = format!("shaders/matmul.wgsl:{line}:");

    let unknown = broken(&core, declared, "const TILE: u32 = tyle;");
    assert!(
        unknown.starts_with(&place) && unknown.contains("tyle"),
        "{unknown}"
    );
    let mistyped = broken(&core, declared, "const TILE: u32 = 64.5;");
    assert!(mistyped.starts_with(&place), "{mistyped}");
    let group = broken(&core, "@workgroup_size(256)", "@workgroup_size(257)");
    assert!(group.contains("at most 256 invocations"), "{group}");
    let panel = "array<vec4<f32>, 256>";
    let memory = broken(&core, panel, "array<vec4<f32>, 1024>");
    assert!(memory.contains("workgroup memory"), "{memory}");
    let slot = broken(&core, "@binding(1)", "@binding(0)");
    assert!(slot.contains("conflict"), "{slot}");
}

#[test]
fn the_core_tier_rejects_what_is_optional() {
    let mut full = matmul(Tier::F16Subgroups);
    full.check().expect("the shader in its own tier");
    full.tier = Tier::Core;
    let f16 = full.check().expect_err("f16 in the core tier");
    assert!(f16.contains("f16"), "{f16}");

    let source = ops::layer_norm::SPEC.wgsl.expect("layer_norm has WGSL");
    let core = (ops::layer_norm::SPEC.wgsl_variants)()
        .into_iter()
        .map(|variant| Case::new(source, variant))
        .find(|case| case.tier == Tier::Core)
        .expect("a core variant");
    core.check().expect("the shader as it is");
    let plain = "partial[who.lane] = value;";
    let subgroup = broken(&core, plain, "partial[who.lane] = subgroupAdd(value);");
    // The validator blames the function as a whole, which stands in a fragment.
    assert!(
        subgroup.starts_with("shaders/_group_sum.wgsl:") && subgroup.contains("SUBGROUP"),
        "{subgroup}"
    );
}
