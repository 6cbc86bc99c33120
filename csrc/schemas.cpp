// The schemas of the operators that a library was built for, in both libraries. mi_estimators/_extension.py looks for
// this text in the file before it loads it: loading registers the kernels, and one that takes other arguments than its
// operator has would crash. MI_SCHEMAS is set by setup.py.
namespace mi {

extern const char schemas[];
__attribute__((used)) const char schemas[] = "mi_estimators schemas: " MI_SCHEMAS;

}  // namespace mi
