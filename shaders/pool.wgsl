%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// pool.wgsl - one embedding per packed text
// Computes   e = mean of a text's rows of h (variant pooling = mean) or its first row (first), then, with
//            `normalize`, e / max(|e|, 1e-12)
// Twin       src/ops/pool/ (definition, reference), kernels/pool.ptx
// Entry      pool
//
// Shapes     h [t, d] f32; offsets [n + 1] u32; e [n, d] f16 or f32 (variant `output`)
// Layout     row-major, 16-byte aligned
// Requires   d % 8 == 0, d <= 2,048
//
// Launch     one workgroup of 64 per text, spread over x and y
// Mapping    invocation i owns elements 4 i .. 4 i + 3, then 4 (i + 64) .., and walks the text's rows
// Memory     64 f32 of workgroup memory for the norm, 8,192 B for the pooled row
// Sync       for the norm: two barriers and one per halving (6), two with subgroups (_group_sum.wgsl)
// Limits     8,448 B of workgroup memory
//
// Work       t d + 3 n d
// Traffic    4 t d + n d sizeof(output) bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   rows added in order, one division; norm in a fixed tree; bound in error_bound of the twin
// Edges      an empty text gives zeros; NaN in -> NaN out
struct Params { d: u32, texts: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "rows", "f32", "read", native)}
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
${array(2, "e", output, "read_write", native)}

const GROUP: u32 = 64u;
%% if normalize
${group_sum(subgroups)}
var<workgroup> pooled: array<vec4<f32>, 512>; // each invocation reads back only what it wrote
%% endif

@compute @workgroup_size(GROUP)
fn pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
%% if normalize
${who_inputs(subgroups)}
%% endif
) {
    let text = group.x + group.y * groups.x;
    if text >= p.texts {
        return;
    }
    let first = offsets[text];
%% if pooling == "mean"
    let end = offsets[text + 1u];
%% else
    let end = min(offsets[text + 1u], first + 1u);
%% endif
    let count = f32(max(end - first, 1u));
%% if normalize
    var squares = 0.0;
%% endif
    for (var c = lane; c < d4(); c += GROUP) {
        var sum = vec4<f32>();
        for (var t = first; t < end; t += 1u) {
            sum += load_rows(t * d4() + c);
        }
        let mean = sum / count;
%% if normalize
        pooled[c] = mean;
        squares += dot(mean, mean);
%% else
        store_e(text * d4() + c, mean);
%% endif
    }
%% if normalize
${who_value(subgroups)}
    let total = group_sum(squares, who);
    let norm = max(sqrt(total), 1.0e-12);
    for (var c = lane; c < d4(); c += GROUP) {
        store_e(text * d4() + c, pooled[c] / norm);
    }
%% endif
}
