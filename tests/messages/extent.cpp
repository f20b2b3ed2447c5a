// expect: could not convert|no matching function|cannot convert
// A table whose fixed width differs from the one that is asked for.
#include "elcrec/core/matrix_view.hpp"

void narrow(elcrec::MatrixView<const float, elcrec::Dynamic, 32>);
void call(elcrec::MatrixView<float, elcrec::Dynamic, 64> wide) { narrow(wide); }
