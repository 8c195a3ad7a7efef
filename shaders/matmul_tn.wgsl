%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// matmul_tn.wgsl - gradients of a linear layer's parameters: a product over rows, added to what is there
// Computes   c += a^T b; column_sums += sum over rows of a
// Twins      src/ops/matmul_tn/ (definition, reference), kernels/matmul_tn.ptx
// Entry      matmul_tn: one part of the rows per workgroup (variant pass: product); add_partials: all parts added (add)
//
// Shapes     a [t, n], b [t, k] f16 or f32 (variant `input`); c [n, k], column_sums [n] f32; partials [parts, n, k] f32,
//            parts = ceil(t / rows), written in the place of c by the variant `split`; sum_partials [parts, n] f32 (variant
//            `sums`). add_partials: size = n k, or 0 without `split`; n = 0 without `sums`; sum_parts = parts
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   n % 8 == 0, k % 8 == 0; t arbitrary, > 0
//
// Launch     product: one workgroup of 256 per part and 64 x 64 tile of c, tiles in row-major order, parts slowest, spread over
//            x and y; add: 1,024 elements per workgroup of 256
// Mapping    product: invocation (tx, ty) of 16 x 16 owns rows 4 ty .. +3 and columns 4 tx .. +3 of the tile; sums are those
//            of tx = 0 in the first column of tiles. add: four neighbouring elements per invocation
// Memory     staged: panels of 16 rows x 64 columns of a and of b as vec4, 2 x 4,096 B; direct, add: none
// Sync       staged: two barriers per 16 rows (panel filled, panel consumed); direct, add: none
// Limits     8,192 B of workgroup memory, 256 invocations: within the defaults
//
// Work       2 t n k FLOP
// Traffic    t (n + k) sizeof(input) + 8 n k if each is moved once, 8 parts n k more if split; every tile re-reads its panels,
//            from cache
// Roofline   compute bound from n and k of about 100 on
// Measured   see benches/results
//
// Numerics   each output is one chain over the rows of a part, then one over the parts, added to what is there;
//            |error| <= g(t + 1) (|c| + sum |a b|) with u = 2^-23; sums likewise
// Edges      rows beyond t count as zeros; columns beyond n and k are clamped on loading and never stored; NaN in -> NaN out
//
//   for s0 in 0, 16, .. of the part        staged: the workgroup copies two panels first
//     for each row: a vector of a, one of b, four products of a number and a vector into acc
//   partials = acc, or c += acc; four neighbouring columns at a time
%% if pass == "product"
struct Params { t: u32, n: u32, k: u32, rows: u32 }
var<immediate> p: Params;

// Vectors of four in a row of a, and in one of b or c.
fn n4() -> u32 { return p.n / 4u; }
fn k4() -> u32 { return p.k / 4u; }

${array(0, "a", input, "read", native)}
${array(1, "b", input, "read", native)}
${array(2, "partials" if split else "c", "f32", "read_write", native)}
%% if sums
${array(3, "sum_partials", "f32", "read_write", native)}
%% endif

const TILE: u32 = 64u;
const TILE4: u32 = 16u;
%% if staged
const STEP: u32 = 16u; // rows per panel
var<workgroup> a_panel: array<vec4<f32>, 256>; // [row][column4]
var<workgroup> b_panel: array<vec4<f32>, 256>;
%% endif

@compute @workgroup_size(256)
fn matmul_tn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles_k = (p.k + TILE - 1u) / TILE;
    let tiles = (p.n + TILE - 1u) / TILE * tiles_k;
    let index = group.x + group.y * groups.x;
    let part = index / tiles;
    let tile = index % tiles;
    let begin = part * p.rows;
    if begin >= p.t {
        return;
    }
    let end = min(begin + p.rows, p.t);
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row4 = (tile / tiles_k) * TILE4 + ty;
    let col4 = (tile % tiles_k) * TILE4 + tx;
%% for i in range(4)
    var acc${i} = vec4<f32>();
%% endfor
%% if sums
    var sum = vec4<f32>();
%% endif
%% if staged
    // Copying: this invocation brings one vec4 of each panel, row `lane / 16`, column4 `lane % 16`.
    let a_col = min((tile / tiles_k) * TILE4 + tx, n4() - 1u);
    let b_col = min(col4, k4() - 1u);
    for (var s0 = begin; s0 < end; s0 += STEP) {
        var a_piece = vec4<f32>();
        var b_piece = vec4<f32>();
        if s0 + ty < end {
            a_piece = load_a((s0 + ty) * n4() + a_col);
            b_piece = load_b((s0 + ty) * k4() + b_col);
        }
        workgroupBarrier(); // the previous panels are consumed
        a_panel[lane] = a_piece;
        b_panel[lane] = b_piece;
        workgroupBarrier(); // the panels are filled
        for (var s = 0u; s < STEP; s += 1u) {
            let a = a_panel[s * TILE4 + ty];
            let b = b_panel[s * TILE4 + tx];
%% for i in range(4)
            acc${i} += a[${i}] * b;
%% endfor
%% if sums
            sum += a;
%% endif
        }
    }
%% else
    let a_col = min(row4, n4() - 1u);
    let b_col = min(col4, k4() - 1u);
    for (var s = begin; s < end; s += 1u) {
        let a = load_a(s * n4() + a_col);
        let b = load_b(s * k4() + b_col);
%% for i in range(4)
        acc${i} += a[${i}] * b;
%% endfor
%% if sums
        sum += a;
%% endif
    }
%% endif

    // n % 8 == 0: all four rows exist, or none.
    if row4 >= n4() {
        return;
    }
%% if sums
    if col4 == 0u {
        store_sum_partials(part * n4() + row4, sum);
    }
%% endif
    if col4 >= k4() {
        return;
    }
%% for i in range(4)
%% if split
    store_partials((part * p.n + row4 * 4u + ${i}u) * k4() + col4, acc${i});
%% else
    let at${i} = (row4 * 4u + ${i}u) * k4() + col4;
    store_c(at${i}, load_c(at${i}) + acc${i});
%% endif
%% endfor
}
%% else
struct Params { size: u32, parts: u32, n: u32, sum_parts: u32 }
var<immediate> p: Params;

%% set next = namespace(binding=0)
%% if split
${array(0, "partials", "f32", "read", native)}
%% set next.binding = 1
%% endif
%% if sums
${array(next.binding, "sum_partials", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% endif
%% if split
${array(next.binding, "c", "f32", "read_write", native)}
%% set next.binding = next.binding + 1
%% endif
%% if sums
${array(next.binding, "column_sums", "f32", "read_write", native)}
%% endif

@compute @workgroup_size(256)
fn add_partials(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var i = (group.x + group.y * groups.x) * 256u + lane;
%% if split
    let size4 = p.size / 4u;
    if i < size4 {
        var total = load_partials(i);
        for (var part = 1u; part < p.parts; part += 1u) {
            total += load_partials(part * size4 + i);
        }
        store_c(i, load_c(i) + total);
        return;
    }
    i -= size4;
%% endif
%% if sums
    let n4 = p.n / 4u;
    if i < n4 {
        var total = load_sum_partials(i);
        for (var part = 1u; part < p.sum_parts; part += 1u) {
            total += load_sum_partials(part * n4 + i);
        }
        store_column_sums(i, load_column_sums(i) + total);
    }
%% endif
}
%% endif
