// Masks of sparse attention: scores, row sums and selection in one walk, so that no matrix of scores is ever stored.
#include "isa.h"
#include "mask_job.h"

// Fills words, kept and doubtful, and returns the instruction set it used. The caller has checked shapes, that operands are finite, and
// that no score can pass float32's range.
XM_API int xm_make_masks(const xmsim::MaskScores* scores, const xmsim::MaskRule* rule, const xmsim::MaskOut* out, int threads) {
  using namespace xmsim;
  const MaskJob job{*scores, *rule, *out};
  Isa used = Isa::portable;
#if XM_X86
  if (isa() >= Isa::avx512) {
    used = Isa::avx512;
    make_masks_avx512(job, threads);
  } else if (isa() >= Isa::avx2) {
    used = Isa::avx2;
    make_masks_avx2(job, threads);
  }
#endif
  if (used == Isa::portable) make_masks_portable(job, threads);
  return static_cast<int>(used);
}
