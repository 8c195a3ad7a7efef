%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_gelu.wgsl" import erf
// matmul.wgsl - linear layer with fused epilogue
// Computes   c = epilogue(a w^T),  epilogue(v) = gelu(v + bias) + residual, each part optional; before_gelu = a w^T + bias
//            where the variant `saves`
// Twins      src/ops/matmul/ (definition, reference), kernels/matmul.ptx
// Entry      matmul
//
// Shapes     a [m, k], w [n, k] f16 or f32 (variant `input`); bias [n] f32; residual [m, n] f32;
//            before_gelu [m, n] as a; c [m, n] f16 or f32 (variant `output`)
// Layout     row-major, last axis contiguous, 16-byte aligned; c aliases nothing
// Requires   n % 8 == 0, k % 8 == 0; m arbitrary
//
// Launch     one workgroup of 256 per 64 x 64 tile of c, tiles in row-major order spread over x and y
// Mapping    invocation (tx, ty) of 16 x 16 owns rows 4 ty .. +3 and columns 4 tx .. +3 of the tile
// Memory     staged: A and W panels of 64 rows x 16 k as vec4 along k, 2 x 4,096 B; direct: none
// Sync       staged: two barriers per 16 k (panel filled, panel consumed); direct: none
// Limits     8,192 B of workgroup memory, 256 invocations: within the defaults
//
// Work       2 m n k FLOP
// Traffic    (m k + n k) sizeof(input) + m n sizeof(output) (+ 4 m n with a residual) if each is moved once;
//            every tile re-reads its panels, from cache
// Roofline   compute bound from k and n of about 100 on
// Measured   see benches/results
//
// Numerics   each output is one chain of k / 4 dot products of four; f32 accumulation whatever the input;
//            |error| <= g(k) sum |a w| with u = 2^-23, then the epilogue (error_bound of the twin)
// Edges      rows and columns beyond m and n are clamped on loading and never stored; NaN in -> NaN out
//
//   for k0 in 0, 16, ..                    staged: the workgroup copies two panels first
//     for each 4 k: 4 vectors of a, 4 of w, 16 dot products into acc
//   v = acc (+ bias) (gelu) (+ residual); four neighbouring columns stored at a time
struct Params { m: u32, n: u32, k: u32 }
var<immediate> p: Params;

// Vectors of four in a row of a or w.
fn k4() -> u32 { return p.k / 4u; }

%% set next = namespace(binding=2)
${array(0, "a", input, "read", native)}
${array(1, "w", input, "read", native)}
%% if bias
${array(next.binding, "bias", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% endif
%% if residual
${array(next.binding, "residual", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% endif
%% if saves
${array(next.binding, "before_gelu", input, "read_write", native)}
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "c", output, "read_write", native)}

const TILE: u32 = 64u;
%% if staged
const STEP4: u32 = 4u; // k per panel, in vec4
var<workgroup> a_panel: array<vec4<f32>, 256>; // [k4][row]
var<workgroup> w_panel: array<vec4<f32>, 256>; // [k4][column]
%% endif
%% if gelu

${erf()}
fn gelu(v: vec4<f32>) -> vec4<f32> {
    return 0.5 * v * (1.0 + erf(v * 0.70710678));
}
%% endif

@compute @workgroup_size(256)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_n = (p.n + TILE - 1u) / TILE;
    if tile >= (p.m + TILE - 1u) / TILE * tiles_n {
        return;
    }
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row0 = (tile / tiles_n) * TILE;
    let col0 = (tile % tiles_n) * TILE;
    let row = row0 + ty * 4u;
    let col = col0 + tx * 4u;
%% for i in range(4)
    var acc${i} = vec4<f32>();
%% endfor
%% if staged
    // Copying: this invocation brings one vec4 of each panel, row `lane / 4`, k4 `lane % 4`, so that four
    // neighbouring invocations read one row's 16 k in one piece.
    let copy_row = lane / STEP4;
    let copy_k = lane % STEP4;
    let a_row = min(row0 + copy_row, p.m - 1u) * k4();
    let w_row = min(col0 + copy_row, p.n - 1u) * k4();
    for (var k0 = 0u; k0 < k4(); k0 += STEP4) {
        var a_piece = vec4<f32>();
        var w_piece = vec4<f32>();
        if k0 + copy_k < k4() {
            a_piece = load_a(a_row + k0 + copy_k);
            w_piece = load_w(w_row + k0 + copy_k);
        }
        workgroupBarrier(); // the previous panels are consumed
        a_panel[copy_k * TILE + copy_row] = a_piece;
        w_panel[copy_k * TILE + copy_row] = w_piece;
        workgroupBarrier(); // the panels are filled
        for (var k = 0u; k < STEP4; k += 1u) {
%% for i in range(4)
            let a${i} = a_panel[k * TILE + ty * 4u + ${i}u];
            let w${i} = w_panel[k * TILE + tx * 4u + ${i}u];
%% endfor
%% for i in range(4)
            acc${i} += vec4<f32>(dot(a${i}, w0), dot(a${i}, w1), dot(a${i}, w2), dot(a${i}, w3));
%% endfor
        }
    }
%% else
%% for i in range(4)
    let a_row${i} = min(row + ${i}u, p.m - 1u) * k4();
    let w_row${i} = min(col + ${i}u, p.n - 1u) * k4();
%% endfor
    for (var k = 0u; k < k4(); k += 1u) {
%% for i in range(4)
        let a${i} = load_a(a_row${i} + k);
        let w${i} = load_w(w_row${i} + k);
%% endfor
%% for i in range(4)
        acc${i} += vec4<f32>(dot(a${i}, w0), dot(a${i}, w1), dot(a${i}, w2), dot(a${i}, w3));
%% endfor
    }
%% endif

    if col >= p.n {
        return;
    }
%% for i in range(4)
    if row + ${i}u < p.m {
        let at = ((row + ${i}u) * p.n + col) / 4u;
        var v = acc${i};
%% if bias
        v += load_bias(col / 4u);
%% endif
%% if saves
        store_before_gelu(at, v);
%% endif
%% if gelu
        v = gelu(v);
%% endif
%% if residual
        v += load_residual(at);
%% endif
        store_c(at, v);
    }
%% endfor
}
