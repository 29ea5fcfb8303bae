import stylistic from '@stylistic/eslint-plugin'
import { defineConfig, globalIgnores } from 'eslint/config'
import importX, { createNodeResolver } from 'eslint-plugin-import-x'
import tseslint from 'typescript-eslint'

const oneWay = 'Imports point one way: cli → node → roles → {protocols, model} → api → ground; protocols and model do not know each other.'

/** The folders of src that the files of each folder, and those of the ground floor, import nothing from. */
const forbidden = {
  // All but the entrance of the package, which exports from every layer.
  '!(index).ts': ['api', 'model', 'protocols', 'roles', 'node', 'cli'],
  api: ['model', 'protocols', 'roles', 'node', 'cli'],
  model: ['protocols', 'roles', 'node', 'cli'],
  protocols: ['model', 'roles', 'node', 'cli'],
  roles: ['node', 'cli'],
  node: ['cli']
}

const importZones = [
  ...Object.entries(forbidden).flatMap(([target, folders]) =>
    folders.map((from) => ({ target: `./src/${target}`, from: `./src/${from}`, message: oneWay }))),
  // A generator or a boundary must not pull in optimisers: what training and generation share stands in model/layers.
  ...['generation', 'privacy'].map((target) => ({
    target: `./src/model/${target}`, from: './src/model/training', message: 'What training and this folder share stands in model/layers.'
  })),
  ...['protocols', 'node', 'roles/client', 'roles/server', 'roles/middle', 'roles/context.ts'].map((from) => ({
    target: './src/roles/training', from: `./src/${from}`, message: 'A round knows no transport: it sees participants, a clock and a stage.'
  })),
  { target: './src', from: ['./test', './bench'], message: 'What is published does not depend on its tests.' }
]

const noDefaultExport = { selector: 'ExportDefaultDeclaration', message: 'Export by name.' }

export default defineConfig(
  globalIgnores(['**/*_pb.ts', 'dist', 'coverage']),
  {
    files: ['**/*.{js,ts}'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    plugins: { '@stylistic': stylistic, 'import-x': importX },
    settings: {
      'import-x/extensions': ['.ts', '.js'],
      'import-x/parsers': { '@typescript-eslint/parser': ['.ts'] },
      'import-x/resolver-next': [createNodeResolver({ extensions: ['.ts', '.js'] })]
    },
    rules: {
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-var': 'error',
      'no-restricted-syntax': ['error', noDefaultExport],
      'object-shorthand': 'error',
      'prefer-const': ['error', { destructuring: 'all' }],
      'import-x/no-duplicates': 'error',
      'import-x/order': ['error', {
        groups: ['builtin', 'external', 'parent', 'sibling', 'index'],
        // The examples import the package by its own name, which resolves only where it was built.
        pathGroups: [{ pattern: 'midspan', group: 'external' }],
        pathGroupsExcludedImportTypes: [],
        'newlines-between': 'never',
        alphabetize: { order: 'asc', caseInsensitive: true }
      }],
      'import-x/no-restricted-paths': ['error', { basePath: import.meta.dirname, zones: importZones }],
      '@stylistic/arrow-parens': 'error',
      '@stylistic/arrow-spacing': 'error',
      '@stylistic/brace-style': ['error', '1tbs', { allowSingleLine: true }],
      '@stylistic/comma-dangle': 'error',
      '@stylistic/comma-spacing': 'error',
      '@stylistic/eol-last': 'error',
      '@stylistic/indent': ['error', 2, { SwitchCase: 1 }],
      '@stylistic/key-spacing': ['error', { mode: 'minimum' }],
      '@stylistic/keyword-spacing': 'error',
      '@stylistic/max-len': ['error', {
        code: 140,
        ignoreStrings: true,
        ignoreTemplateLiterals: true,
        ignoreRegExpLiterals: true,
        ignoreUrls: true
      }],
      '@stylistic/no-multiple-empty-lines': ['error', { max: 1, maxEOF: 0 }],
      '@stylistic/no-trailing-spaces': 'error',
      '@stylistic/object-curly-spacing': ['error', 'always'],
      '@stylistic/quotes': ['error', 'single', { avoidEscape: true, allowTemplateLiterals: 'avoidEscape' }],
      '@stylistic/semi': ['error', 'never'],
      '@stylistic/space-before-blocks': 'error',
      '@stylistic/space-before-function-paren': 'error',
      '@stylistic/space-infix-ops': 'error'
    }
  },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      'no-restricted-syntax': ['error', noDefaultExport,
        // Node runs the sources by erasing types: what leaves code behind cannot run.
        { selector: 'TSEnumDeclaration', message: 'Use constants: enums cannot be erased.' },
        { selector: 'TSModuleDeclaration[kind!="global"][declare!=true]', message: 'Use modules: namespaces cannot be erased.' },
        { selector: 'TSParameterProperty', message: 'Assign in the constructor: parameter properties cannot be erased.' }
      ],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' }],
      // An interface's method may be asynchronous for the sake of others that implement it.
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }]
    }
  },
  {
    files: ['*.config.{js,ts}'],
    rules: { 'no-restricted-syntax': 'off' }
  }
)
