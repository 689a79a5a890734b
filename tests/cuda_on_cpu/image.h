// What a module is loaded from, as far as a driver looks at it before it takes code from it.
#pragma once

namespace cuda_on_cpu {

enum class Image { invalid, for_other_cards, usable };

// Whether a card of this compute capability (90 is 9.0) finds code for itself in an image: a fat binary, or one cubin. A
// header with nothing behind it is taken for code that suits all.
Image look_at_image(const void* image, int compute_capability);

}  // namespace cuda_on_cpu
