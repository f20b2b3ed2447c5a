// expect: FeedForward: the lane lacks operations of operation::Gelu
// A backend may lack an operation that nobody uses; a part that uses it says which one.
#include "elcrec/backend/reference.hpp"
#include "elcrec/nn/feed_forward.hpp"

struct Lane : elcrec::ReferenceLane<double> {};
template <class... Arguments>
void bias_gelu_backward(Lane&, Arguments...) = delete;

struct WithoutGelu : elcrec::BasicReference<double> {
  using Lane = ::Lane;
  static Lane make_lane() { return {}; }
};
static_assert(elcrec::Backend<WithoutGelu>);

void use(const WithoutGelu& backend) { const elcrec::FeedForward<WithoutGelu> feed_forward(backend, 4, 0.5, 1e-12); }
