%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_gelu.wgsl" import erf
// matmul_nn.wgsl - gradient of a linear layer's input with fused epilogue
// Computes   c = (a w) gelu'(u) + residual, the factor and the residual optional
// Twins      src/ops/matmul_nn/ (definition, reference), kernels/matmul_nn.ptx
// Entry      matmul_nn
//
// Shapes     a [m, n], w [n, k], gelu_of (u) [m, k] f16 or f32 (variant `input`); residual [m, k] f32;
//            c [m, k] f16 or f32 (variant `output`)
// Layout     row-major, last axis contiguous, 16-byte aligned; c aliases nothing
// Requires   n % 8 == 0, k % 8 == 0; m arbitrary
//
// Launch     one workgroup of 256 per 64 x 64 tile of c, tiles in row-major order spread over x and y
// Mapping    invocation (tx, ty) of 16 x 16 owns rows 4 ty .. +3 and columns 4 tx .. +3 of the tile
// Memory     staged: panels of 64 rows of a x 16 n, as vec4 along n, and of 16 rows of w x 64 k, as vec4 along k, 2 x 4,096 B;
//            direct: none
// Sync       staged: two barriers per 16 n (panel filled, panel consumed); direct: none
// Limits     8,192 B of workgroup memory, 256 invocations: within the defaults
//
// Work       2 m n k FLOP
// Traffic    (m n + n k) sizeof(input) + m k sizeof(output) (+ m k sizeof(input) with gelu', + 4 m k with a residual) if
//            each is moved once; every tile re-reads its panels, from cache
// Roofline   compute bound from n and k of about 100 on
// Measured   see benches/results
//
// Numerics   each output is one chain of n products; f32 accumulation whatever the input; |error| <= g(n) sum |a w| with
//            u = 2^-23, then the epilogue (error_bound of the twin)
// Edges      rows and columns beyond m and k are clamped on loading and never stored; NaN in -> NaN out; a u whose square is
//            infinite has exp(-u^2 / 2) = 0
//
//   for n0 in 0, 16, ..                    staged: the workgroup copies two panels first
//     for each 4 n: 4 vectors of a, 4 of w, 16 products of a number and a vector into acc
//   v = acc (* gelu') (+ residual); four neighbouring columns stored at a time
struct Params { m: u32, n: u32, k: u32 }
var<immediate> p: Params;

// Vectors of four in a row of a, and in one of w or c.
fn n4() -> u32 { return p.n / 4u; }
fn k4() -> u32 { return p.k / 4u; }

%% set next = namespace(binding=2)
${array(0, "a", input, "read", native)}
${array(1, "w", input, "read", native)}
%% if gelu
${array(next.binding, "gelu_of", input, "read", native)}
%% set next.binding = next.binding + 1
%% endif
%% if residual
${array(next.binding, "residual", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "c", output, "read_write", native)}

const TILE: u32 = 64u;
const TILE4: u32 = 16u;
%% if staged
const STEP: u32 = 16u; // n per panel
const STEP4: u32 = 4u; // in vec4
var<workgroup> a_panel: array<vec4<f32>, 256>; // [n4][row]
var<workgroup> w_panel: array<vec4<f32>, 256>; // [n][column4]
%% endif
%% if gelu

${erf()}
// gelu'(x) = Phi(x) + x phi(x)
fn slope(x: vec4<f32>) -> vec4<f32> {
    let bell = exp(x * x * -0.5);
    return 0.5 * (1.0 + erf(x * 0.70710678)) + x * 0.39894228 * bell;
}
%% endif

@compute @workgroup_size(256)
fn matmul_nn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles_k = (p.k + TILE - 1u) / TILE;
    if tile >= (p.m + TILE - 1u) / TILE * tiles_k {
        return;
    }
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row0 = (tile / tiles_k) * TILE;
    let col0 = (tile % tiles_k) * TILE;
    let row = row0 + ty * 4u;
    let col = col0 + tx * 4u;
%% for i in range(4)
    var acc${i} = vec4<f32>();
%% endfor
%% if staged
    // Copying: this invocation brings one vec4 of each panel: of a, row `lane / 4`, n4 `lane % 4`; of w, row `lane / 16`,
    // column4 `lane % 16`.
    let copy_row = lane / STEP4;
    let copy_n = lane % STEP4;
    let a_row = min(row0 + copy_row, p.m - 1u) * n4();
    let w_col = min(col0 / 4u + tx, k4() - 1u);
    for (var n0 = 0u; n0 < p.n; n0 += STEP) {
        var a_piece = vec4<f32>();
        var w_piece = vec4<f32>();
        if n0 / 4u + copy_n < n4() {
            a_piece = load_a(a_row + n0 / 4u + copy_n);
        }
        if n0 + ty < p.n {
            w_piece = load_w((n0 + ty) * k4() + w_col);
        }
        workgroupBarrier(); // the previous panels are consumed
        a_panel[copy_n * TILE + copy_row] = a_piece;
        w_panel[lane] = w_piece;
        workgroupBarrier(); // the panels are filled
        for (var n = 0u; n < STEP4; n += 1u) {
%% for i in range(4)
            let a${i} = a_panel[n * TILE + ty * 4u + ${i}u];
            let w${i} = w_panel[(n * 4u + ${i}u) * TILE4 + tx];
%% endfor
%% for i in range(4)
%% for e in range(4)
            acc${i} += a${i}[${e}] * w${e};
%% endfor
%% endfor
        }
    }
%% else
%% for i in range(4)
    let a_row${i} = min(row + ${i}u, p.m - 1u) * n4();
%% endfor
    let w_col = min(col / 4u, k4() - 1u);
    for (var n = 0u; n < n4(); n += 1u) {
%% for i in range(4)
        let a${i} = load_a(a_row${i} + n);
        let w${i} = load_w((n * 4u + ${i}u) * k4() + w_col);
%% endfor
%% for i in range(4)
%% for e in range(4)
        acc${i} += a${i}[${e}] * w${e};
%% endfor
%% endfor
    }
%% endif

    if col >= p.k {
        return;
    }
%% for i in range(4)
    if row + ${i}u < p.m {
        let at = (row + ${i}u) * k4() + col / 4u;
        var v = acc${i};
%% if gelu
        v *= slope(load_gelu_of(at));
%% endif
%% if residual
        v += load_residual(at);
%% endif
        store_c(at, v);
    }
%% endfor
}
